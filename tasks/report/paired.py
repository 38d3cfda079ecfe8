"""Each model beside the one that it began with, on the same problems and documents: what `lm/paired.py` finds."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from lm.paired import Difference, byte_differences, score_difference
from tasks.report.divergence import divergence
from tasks.report.read import Stage


@dataclass(frozen=True)
class ModelComparison:
    """What a model has beyond another: a share of right answers, and bits per byte; None where nothing can be told. sets: of
    what else both were asked, by name. kl: its divergence from the model that it was made of, nats a token."""

    other: str
    accuracy: Difference | None
    bits_per_byte: Difference | None
    sets: dict[str, Difference] = field(default_factory=dict)
    kl: Difference | None = None

    def row(self) -> dict[str, Any]:
        """For JSON. A divergence has no verdict: between two models that differ at all it is above 0."""
        return {
            "model": self.other,
            "accuracy": self.accuracy and self.accuracy.row(),
            "bits_per_byte": self.bits_per_byte and self.bits_per_byte.row(),
            "kl": self.kl and asdict(self.kl),
            **({"sets": {name: each.row() for name, each in self.sets.items()}} if self.sets else {}),
        }


def compare_models(stages: Sequence[Stage], params: dict[str, Any]) -> dict[str, ModelComparison]:
    """What each model has beyond the one it began with (`model` of its section), where that is evaluated too, else beyond the
    one before it in the list. Models whose evaluation is not current, and the first, are not there."""
    models = {stage.model: stage for stage in stages if stage.model and stage.current}
    names = list(models)
    others: dict[str, str] = {}
    parents: set[str] = set()
    for place, name in enumerate(names):
        section = params.get(name)
        began = section.get("model") if isinstance(section, dict) else None
        if isinstance(began, str) and began in models and began != name:
            others[name] = began
            parents.add(name)
        elif place:
            others[name] = names[place - 1]
    bits = _bits(models, others)
    scores = {name: scores_of(stage.folder / "answers.parquet") for name, stage in models.items()}
    more = {name: _asked_beside(stage) for name, stage in models.items()}
    told = {}
    for name, other in others.items():
        pairs = {
            label: score_differences(own, more[other][label])
            for label, own in more[name].items()
            if label in more[other]
        }
        sets = {label: found for label, pair in pairs.items() if (found := score_difference(pair)) is not None}
        accuracy = score_difference(score_differences(scores[name], scores[other]))
        kl = divergence(models[name].folder, models[other].folder) if name in parents else None
        told[name] = ModelComparison(other, accuracy, bits.get((name, other)), sets, kl)
    return told


def labels_of(metrics: dict[str, float]) -> list[str]:
    """Names of the problem sets and tasks that have an accuracy of their own with an interval, besides the first set."""
    end = "_accuracy_low"
    found = [name.removesuffix(end) for name in metrics if name.endswith(end)]
    return [name for name in found if not name.startswith("decoding_")]


def _asked_beside(stage: Stage) -> dict[str, dict[str, float]]:
    """Scores of each of them."""
    tables = {label: stage.folder / f"answers_{label}.parquet" for label in labels_of(stage.metrics)}
    return {
        label: scores_of(path if path.exists() else stage.folder / f"{label}.parquet") for label, path in tables.items()
    }


def score_differences(ours: dict[str, float], theirs: dict[str, float]) -> list[float]:
    """The differences of scores of the problems on which both have a verdict."""
    return [score - theirs[problem] for problem, score in ours.items() if problem in theirs]


def scores_of(path: Path) -> dict[str, float]:
    """The score of each problem that has a verdict, or 1 for each question whose likeliest choice is the right one, by id; none
    where there is no file."""
    if not path.exists():
        return {}
    return _scores(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _scores(path: Path, _changed: int) -> dict[str, float]:
    names = pq.read_schema(path).names
    if "score" in names:
        rows = pq.read_table(path, columns=["id", "score", "valid"]).to_pylist()
        return {row["id"]: row["score"] for row in rows if row["valid"]}
    rows = pq.read_table(path, columns=["id", "chosen", "right"]).to_pylist()
    return {row["id"]: float(row["chosen"] == row["right"]) for row in rows}


def _bits(models: dict[str, Stage], others: dict[str, str]) -> dict[tuple[str, str], Difference]:
    """Differences over the documents that all models were measured on."""
    paths = {name: stage.folder / "bits.parquet" for name, stage in models.items()}
    there = tuple((name, path, path.stat().st_mtime_ns) for name, path in paths.items() if path.exists())
    known = {name for name, *_ in there}
    pairs = tuple((name, other) for name, other in others.items() if {name, other} <= known)
    return _told(there, pairs) if pairs else {}


@lru_cache(maxsize=8)  # the page and the table of one run ask for the same, which takes a fifth of a second
def _told(
    there: tuple[tuple[str, Path, int], ...], pairs: tuple[tuple[str, str], ...]
) -> dict[tuple[str, str], Difference]:
    columns = ["id", "source", "bytes", "bits"]
    found = {
        name: {row["id"]: row for row in pq.read_table(path, columns=columns).to_pylist()} for name, path, _ in there
    }
    first = next(iter(found.values()))
    rows = [
        {
            **{column: row[column] for column in ("id", "source", "bytes")},
            **{f"of_{name}": documents[each]["bits"] for name, documents in found.items()},
        }
        for each, row in first.items()
        if all(each in documents for documents in found.values())
    ]
    told = byte_differences(rows, [(f"of_{name}", f"of_{other}") for name, other in pairs])
    return {pair: told[f"of_{pair[0]}", f"of_{pair[1]}"] for pair in pairs if told}


def format_nats(found: Difference | None) -> str:
    """A divergence in words: `0.0120 (0.0090 to 0.0150)`."""
    return "" if found is None else f"{found.mean:.4f} ({found.low:.4f} to {found.high:.4f})"


def format_points(found: Difference | None) -> str:
    """A difference of shares, in percent points: `+3.0 (1.2 to 4.9)`; what holds 0 is no difference."""
    if found is None:
        return ""
    said = f"{100 * found.mean:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
    return f"no difference: {said}" if found.includes_zero else said


def format_bits(found: Difference | None) -> str:
    """A difference of bits per byte in words: `-0.0120 (-0.0150 to -0.0090)`; what holds 0 is no difference."""
    if found is None:
        return ""
    said = f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f})"
    return f"no difference: {said}" if found.includes_zero else said
