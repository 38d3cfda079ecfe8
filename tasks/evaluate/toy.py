"""Evaluation in the toy run."""

from pathlib import Path

from tasks.about.shrink import PROBLEMS, Params


def toy(params: Params, folder: Path) -> Params:
    """Some problems."""
    return {"problems_counted": PROBLEMS}
