"""A few documents and answers to read by eye, chosen the same way every time."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.tables import count_rows, read_table, shard_paths
from tasks.report.words import truncate
from tasks.runner.json_lines import lines_of

SHOWN = 5
# Dropped rows and where their text is: the tables that data stages write beside documents.
DROPPED = {"dropped": ("id", "text"), "quarantine.parquet": ("file", "excerpt")}


@dataclass(frozen=True)
class Example:
    """A document or what is left of it: where it came from, why it was dropped (empty if kept), its beginning."""

    name: str
    source: str
    reason: str
    text: str


@dataclass(frozen=True)
class Answer:
    """What a model said, and what it should have said."""

    prompt: str
    completion: str
    answer: str
    verdict: str


def kept_documents(folder: Path) -> list[Example]:
    """SHOWN documents, evenly spread over the shards of documents; none where there are no shards."""
    path = folder / "documents"
    if not is_table(path):
        return []
    rows = rows_at(path, evenly(range(count_rows(path)), SHOWN))
    return [Example(r["id"], r["source"], "", truncate(r["text"])) for r in rows]


def is_table(path: Path) -> bool:
    """Whether a file is there, or a folder with shards."""
    return path.is_file() or any(path.glob("*.parquet"))


def dropped_documents(folder: Path) -> list[Example]:
    """SHOWN dropped documents, the commonest reasons first, one of each reason before a second of any."""
    for name, (identity, text) in DROPPED.items():
        if is_table(folder / name):
            reasons = read_table(folder / name, ["reason"])["reason"].to_pylist()
            rows = rows_at(folder / name, over_reasons(reasons, SHOWN))
            return [Example(r[identity] or "", r["source"], r["reason"], truncate(r[text] or "")) for r in rows]
    return []


def sample_answers(folder: Path, each: int = 4) -> list[Answer]:
    """`each` right and `each` other answers, evenly spread over answers.parquet."""
    path = folder / "answers.parquet"
    if not path.exists():
        return []
    rows = pq.read_table(path).to_pylist()
    right = [i for i, r in enumerate(rows) if r["valid"] and r["score"] >= 1]
    other = [i for i, r in enumerate(rows) if not (r["valid"] and r["score"] >= 1)]
    chosen = [rows[i] for group in (right, other) for i in evenly(group, each)]
    return [
        Answer(truncate(r["prompt"]), truncate(r["completion"]), truncate(r["answer"]), _verdict(r)) for r in chosen
    ]


def samples(folder: Path) -> tuple[int, dict[str, str]] | None:
    """(step, what the model made of each prompt), the last that samples.jsonl has; None without one."""
    path = folder / "samples.jsonl"
    lines = lines_of(path.read_text(encoding="utf-8")) if path.exists() else []
    last = json.loads(lines[-1]) if lines else None
    return (last["step"], {truncate(p): truncate(t) for p, t in last["texts"].items()}) if last else None


def _verdict(row: dict) -> str:
    if not row["valid"]:
        return "invalid"
    return "right" if row["score"] >= 1 else "wrong"


def kind(reason: str) -> str:
    """The reason without its details: `duplicate_of:<id>` is a duplicate_of."""
    return reason.split(":", 1)[0]


def over_reasons(reasons: list[str], most: int) -> list[int]:
    """Row numbers: one of each kind of reason in turn, the commonest first, each kind's rows evenly spread."""
    groups: dict[str, list[int]] = {}
    for i, reason in enumerate(reasons):
        groups.setdefault(kind(reason), []).append(i)
    ordered = [evenly(groups[k], most) for k in sorted(groups, key=lambda k: (-len(groups[k]), k))]
    turns = [group[turn] for turn in range(most) for group in ordered if turn < len(group)]
    return turns[:most]


def evenly(items: Iterable[int], most: int) -> list[int]:
    """At most `most` of the items, from the middles of equal stretches."""
    found = list(items) if not isinstance(items, range) else items
    count = min(most, len(found))
    return [found[(2 * i + 1) * len(found) // (2 * count)] for i in range(count)]


def rows_at(path: Path, wanted: list[int]) -> list[dict]:
    """Rows of a table by their numbers, in the order asked for; only their row groups are read."""
    if not wanted:
        return []
    found: dict[int, dict] = {}
    first = 0
    for shard in shard_paths(path):
        with pq.ParquetFile(shard) as file:
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                here = [i for i in wanted if first <= i < first + count]
                if here:
                    rows = file.read_row_group(group).take(pa.array([i - first for i in here])).to_pylist()
                    found.update(zip(here, rows, strict=True))
                first += count
    return [found[i] for i in wanted]
