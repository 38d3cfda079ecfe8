"""The variants of a checkout side by side: which parameters differ, what evaluation found of each model, and the difference."""

from collections.abc import Callable
from pathlib import Path

from tasks.core.config import read_params
from tasks.report.read import read_stages
from tasks.report.words import ABSENT, percent, size
from tasks.runner.columns import aligned
from tasks.runner.names import flatten

HERE, NOT_EVALUATED, AS_HERE = "(here)", "not evaluated", "as here"
Figures = dict[str, float]


def changed_params(root: Path, folder: Path) -> dict[str, str]:
    """The parameters in which a variant differs from its checkout, by dotted name."""
    here, there = (flatten(read_params(path / "params.yaml")) for path in (root, folder))
    return {name: value for name, value in there.items() if here.get(name) != value}


def current_metrics(folder: Path) -> dict[str, Figures]:
    """What evaluation found of each model that stands in this folder, made of its present parameters and code."""
    return {s.model: s.metrics for s in read_stages(folder) if s.model and s.metrics and s.folder.exists()}


def with_difference(
    name: str, there: Figures, here: Figures, shown: Callable[[float], str], difference: Callable[[float, float], str]
) -> str:
    """A figure, and in brackets by how much it differs from the checkout's where that has one too."""
    if name not in there:
        return ABSENT
    known = name in here and here is not there
    return shown(there[name]) + (f" ({difference(there[name], here[name])})" if known else "")


def cells(model: str, there: Figures, here: Figures) -> list[str]:
    """Model, bits a byte, accuracy in percent with the difference in percentage points, size with it in percent."""
    return [
        model,
        with_difference("bits_per_byte", there, here, lambda v: f"{v:.3f}", lambda a, b: f"{a - b:+.3f}"),
        with_difference("accuracy", there, here, percent, lambda a, b: f"{100 * (a - b):+.1f}"),
        with_difference("size_bytes", there, here, size, lambda a, b: f"{100 * (a / b - 1):+.1f}%" if b else ABSENT),
    ]


def table(root: Path, folders: list[Path]) -> str:
    """A line for each variant and model, the checkout's own first where it has figures; columns stand under each other."""
    base = current_metrics(root)
    rows = [[HERE if first else "", "", *cells(model, base[model], base[model])] for first, model in _first(base)]
    for folder in folders:
        different = ", ".join(f"{name}={value}" for name, value in changed_params(root, folder).items()) or AS_HERE
        found = current_metrics(folder)
        rows += [
            [folder.name if first else "", different if first else "", *cells(model, found[model], base.get(model, {}))]
            for first, model in _first(found)
        ] or [[folder.name, different, NOT_EVALUATED]]
    if any(len(row) > 3 for row in rows):
        rows.insert(0, ["variant", "differs from here in", "model", "bits/byte", "accuracy", "size"])
    return "\n".join(aligned(rows, left=range(1, 6), between=" | ", least=[18]))


def _first(found: dict[str, Figures]) -> list[tuple[bool, str]]:
    return [(not index, model) for index, model in enumerate(found)]
