"""The first step of a training in which two runs differ, and in what, out of the digests and curves that both left."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm.training.digests import TENSOR_DIGITS
from tasks.runner.json_lines import lines_of

# In the order in which a step comes to them: what differs first may have caused the rest.
FIGURES = ("loss", "gradient_norm")


@dataclass(frozen=True)
class Step:
    """step: the first that differs. what: "weights", "batch", or a figure of the curves. tensors: the weights that differ
    before it, or, where these agree or were not hashed, the next time that some differ. total: of how many. since: the last
    step before which the weights were seen to agree, -1 for none."""

    step: int
    what: str
    tensors: list[str] = field(default_factory=list)
    total: int = 0
    since: int = -1

    def __str__(self) -> str:
        named = ", ".join(self.tensors[:3]) + (", ..." if len(self.tensors) > 3 else "")
        many = f"{len(self.tensors)} of {self.total} tensors differ"
        if self.what == "weights":
            later = "" if self.since in (-1, self.step - 1) else f" (they agreed before step {self.since})"
            return f"step {self.step} begins with other weights{later}: {named}; {many}"
        after = f"; then the weights: {named}; {many}" if self.tensors else ""
        cause = {"batch": "it sees another batch", "loss": "the same batch gives another loss"}
        return f"step {self.step}: {cause.get(self.what, f'{self.what} differs')}{after}"


def first_step(left: Path, right: Path) -> Step | None:
    """First step in which two runs of a stage differ, by their output folders; None where they left no digests, or agree as
    long as both went on."""
    one, other = (_lines(folder / "digests.jsonl") for folder in (left, right))
    figures, figures_there = (_lines(folder / "curves.jsonl") for folder in (left, right))
    if not one or not other:
        return None
    names = one[0].get("names", [])
    since = -1
    for step in sorted(one.keys() & other.keys()):
        if "weights" in one[step] and "weights" in other[step]:
            if tensors := _tensors(one[step], other[step], names):
                return Step(step, "weights", tensors, len(names), since)
            since = step
        what = _figure(one[step], other[step], figures.get(step, {}), figures_there.get(step, {}))
        if what:
            later = (_tensors(one[s], other[s], names) for s in sorted(one.keys() & other.keys()) if s > step)
            return Step(step, what, next(filter(None, later), []), len(names), since)
    return None


def _figure(one: dict[str, Any], other: dict[str, Any], figures: dict[str, Any], there: dict[str, Any]) -> str:
    if one.get("batch") != other.get("batch"):
        return "batch"
    rest = [name for name in figures if name in there and name not in FIGURES]
    return next((name for name in (*FIGURES, *rest) if figures.get(name) != there.get(name)), "")


def _tensors(one: dict[str, Any], other: dict[str, Any], names: list[str]) -> list[str]:
    pairs = zip(names, _digests(one), _digests(other), strict=False)
    return [name for name, digest, there in pairs if digest != there]


def _digests(line: dict[str, Any]) -> list[str]:
    """Digests of the tensors; none where the weights were not hashed."""
    text = line.get("weights", "")
    return [text[place : place + TENSOR_DIGITS] for place in range(0, len(text), TENSOR_DIGITS)]


def _lines(path: Path) -> dict[int, dict[str, Any]]:
    """Lines of a file by their step; none where there is no such file."""
    lines = lines_of(path.read_text(encoding="utf-8")) if path.exists() else []
    return {line["step"]: line for line in map(json.loads, lines)}
