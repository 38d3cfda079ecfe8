"""`make bisect A=... B=...`: two finished runs compared, stage by stage; of the first that differs, the step, the tensor or the
row, and the suspect. A and B are folders of projects, git revisions, or ids of MLflow runs."""

import argparse
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

from flows.replay.causes import Suspect, outputs_of, suspects
from flows.replay.finished_run import Side, side_of
from flows.replay.first_difference import differing, first_difference
from flows.replay.first_step import Step, first_step
from flows.replay.tolerance import judge
from tasks.runner.answer import add_json_option, print_json, stdout_to_stderr

EQUAL, WITHIN, DIVERGED = "bit-equal", "within tolerance", "diverged"


@dataclass(frozen=True)
class Verdict:
    """kind: EQUAL, WITHIN or DIVERGED; said: that, with what it rests on."""

    stage: str
    kind: str
    said: str


@dataclass(frozen=True)
class Divergence:
    """The first stage that differs: in what step, where in its output, and for what reasons perhaps."""

    stage: str
    step: Step | None
    place: str
    suspects: list[Suspect]

    def lines(self) -> list[str]:
        found = [f"first difference: {self.stage}"]
        found += [f"  {self.step}"] if self.step else []
        found += [f"  {self.place}"] if self.place else []
        return found + [f"  {'suspect' if n == 0 else 'or'}: {suspect}" for n, suspect in enumerate(self.suspects)]


def order_of(sides: Iterable[Side]) -> list[str]:
    """The stages of both, each after those whose output it reads."""
    before: dict[str, set[str]] = {}
    for side in sides:
        makers = {f"data/{outputs_of(stage)[0]}": stage for stage in side.records}
        for stage, record in side.records.items():
            before.setdefault(stage, set()).update(makers[path] for path in record.deps if path in makers)
    return list(TopologicalSorter(before).static_order())


def compare(left: Side, right: Side) -> list[Verdict]:
    """A verdict of each stage, in order."""
    return [verdict(stage, left, right) for stage in order_of((left, right))]


def verdict(stage: str, left: Side, right: Side) -> Verdict:
    """Verdict on one stage, by the digests of the locks where both have them and they are equal, else by the files."""
    for side, other in ((left, right), (right, left)):
        if stage not in side.records:
            return Verdict(stage, DIVERGED, f"{DIVERGED}: only {other.name} has run it")
    outs, outs_there = left.records[stage].outs, right.records[stage].outs
    if outs and outs == outs_there:
        return Verdict(stage, EQUAL, EQUAL)
    judged = []
    for path in outputs_of(stage):
        one, other_place = left.data / path, right.data / path
        if not (one.exists() and other_place.exists()):
            absent = left.name if not one.exists() else right.name
            return Verdict(stage, DIVERGED, f"{DIVERGED}: how far is not known: data/{path} of {absent} is not here")
        if differing(one, other_place):
            judged.append(judge(one, other_place))
    if not judged:
        return Verdict(stage, EQUAL, EQUAL)
    furthest = max(judged, key=lambda j: float("inf") if j.worst is None else j.worst)
    return Verdict(stage, WITHIN if furthest.within else DIVERGED, str(furthest))


def divergence(stage: str, left: Side, right: Side) -> Divergence | None:
    """Where and why the stage differs; None where one side has not run it."""
    if stage not in left.records or stage not in right.records:
        return None
    step, where = None, ""
    for path in outputs_of(stage):
        one, other = left.data / path, right.data / path
        if one.exists() and other.exists() and (names := differing(one, other)):
            step = step or (first_step(one, other) if one.is_dir() else None)
            results = [name for name in names if not name.endswith(".jsonl")] or names  # curves are symptoms
            where = where or f"data/{path}/{first_difference(one, other, results)}".replace(".json/", ".json: ")
    return Divergence(stage, step, where, suspects(stage, left, right))


def report(left: Side, right: Side, verdicts: list[Verdict]) -> Divergence | None:
    """Print all that is known; returns the first divergence."""
    for found in verdicts:
        print(f"{found.stage:>18} | {found.said}")
    first = next((found for found in verdicts if found.kind != EQUAL), None)
    explained = divergence(first.stage, left, right) if first else None
    if explained:
        print("\n".join(explained.lines()))
    return explained


def main() -> int:
    """Exit code: 0 when every stage is bit-equal, 1 when one is not, 2 for a run that cannot be found."""
    parser = argparse.ArgumentParser(prog="tokenmill bisect", description=__doc__)
    parser.add_argument("a")
    parser.add_argument("b")
    add_json_option(parser)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tokenmill-bisect-") as folder:
        try:
            left, right = (
                side_of(Path.cwd(), name, Path(folder) / word) for word, name in (("a", asked.a), ("b", asked.b))
            )
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        verdicts = compare(left, right)
        with stdout_to_stderr(asked.json):
            first = report(left, right, verdicts)
    if asked.json:
        print_json({"a": left.name, "b": right.name, "stages": verdicts, "first": first})
    return int(any(found.kind != EQUAL for found in verdicts))


if __name__ == "__main__":
    sys.exit(main())
