"""Whether a model may become the champion: its evaluation held to the gates of params.yaml, and to the champion's answers."""

from dataclasses import dataclass
from pathlib import Path

from dvc.repo import Repo
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.tree import Tree

from flows.params.gates import Gates
from lm.paired import score_difference
from tasks.report.paired import format_points, score_differences, scores_of
from tasks.report.read import locked_metrics
from tasks.report.words import size
from tasks.runner.graph import read_graph
from tasks.runner.lock import locked_in, md5s

ANSWERS = "answers.parquet"


@dataclass(frozen=True)
class Looked:
    """What was found of a model: its metrics, the folder of its answers, and DVC's md5 of that folder."""

    metrics: dict[str, float]
    folder: Path
    md5: str


def looked_at(root: Path, model: str, md5: str) -> Looked | None:
    """What the stage that looks at this model found of the one with this md5; None where it has looked at another one, or where
    none does."""
    lock = locked_in(root) or {}
    for address, entry in read_graph(root).items():
        recorded = lock.get(address, {})
        if entry.item == model and md5s(recorded, "deps").get(f"data/{model}") == md5:
            out = entry.outs[0]
            return Looked(locked_metrics(root, address, recorded), root / out, md5s(recorded, "outs").get(out, ""))
    return None


def judged(gates: Gates, own: Looked | None, same: bool, champion: dict[str, float] | str | None) -> tuple[bool, str]:
    """(whether the model passes, the reason in a line: of each gate what it asks and what there is).

    same: whether it is the champion already. champion: the scores of its answers by problem; why there are none, in words; None
    where there is no champion.
    """
    if not gates.asked:
        return True, "no gate is set"
    if own is None or not own.metrics:
        return False, "the model was not evaluated: its evaluation is no goal of this run, or not up to date"
    verdicts = []
    if gates.max_accuracy_loss is not None:
        verdicts.append(_accuracy(gates.max_accuracy_loss, scores_of(own.folder / ANSWERS), same, champion))
    for name, most, told in (
        ("bits_per_byte", gates.max_bits_per_byte, "{:.4g}".format),
        ("size_bytes", gates.max_size_bytes, size),
    ):
        if most is not None:
            value = own.metrics.get(name)
            what = f"{name} {'unknown' if value is None else told(value)}, at most {told(most)} is asked"
            verdicts.append((value is not None and value <= most, what))
    return all(passes for passes, _ in verdicts), "; ".join(
        f"{'passed' if passes else 'FAILED'}: {what}" for passes, what in verdicts
    )


def _accuracy(
    most: float, own: dict[str, float], same: bool, champion: dict[str, float] | str | None
) -> tuple[bool, str]:
    asked = f"{100 * most:.1f} points less are borne"
    if same:
        return True, f"accuracy is the champion's own, {asked}"
    if champion is None:
        return True, f"there is no champion whose accuracy to compare, {asked}"
    if isinstance(champion, str):
        return False, f"accuracy cannot be compared: {champion}"
    found = score_difference(score_differences(own, champion))
    if found is None:
        return False, "accuracy cannot be compared: the champion answered none of these problems"
    return found.low >= -most, f"accuracy beside the champion's, in points: {format_points(found)}, {asked}"


def kept_answers(root: Path, md5: str) -> dict[str, float] | str:
    """The scores of an evaluation that DVC's cache keeps under this md5, by problem; in words why there are none."""
    if not md5:
        return "the champion was registered without an evaluation"
    with Repo(str(root)) as repo:
        cache = repo.cache.local
        try:
            files = {"/".join(key): info.value for key, _, info in Tree.load(cache, HashInfo("md5", md5))}
            path = Path(cache.oid_to_path(files[ANSWERS]))
        except (OSError, KeyError, TypeError, ValueError):
            path = Path()
    if not path.is_file():
        return f"DVC's cache lacks the champion's answers (md5 {md5}): check out its revision and `dvc pull` them"
    return scores_of(path)
