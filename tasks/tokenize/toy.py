"""Tokenize in the toy run."""

from pathlib import Path

from tasks.about.shrink import Params

HELD_OUT = 0.1  # of the text, at most


def toy(params: Params, folder: Path) -> Params:
    """The first rows of a file may be of one group, or stand in each other, where the whole is not so. What is held out is read
    by each model that is evaluated."""
    held_out = min(params["tokenize"].get("held_out_fraction", HELD_OUT), HELD_OUT)
    return {"group_by": [], "max_overlap": 1.0, "held_out_fraction": held_out}
