"""Tokenize in the toy run."""

from pathlib import Path

from tasks.about.shrink import Params

HELD_OUT = 0.1  # of the text, at most


def toy(params: Params, folder: Path) -> Params:
    """Section in which no group and no overlap is looked at, since the first rows of a file may be of one group, or stand in
    each other, where the whole is not so; and a tenth is held out at most, which each model that is evaluated reads."""
    held_out = min(params["tokenize"].get("held_out_fraction", HELD_OUT), HELD_OUT)
    return {"group_by": [], "max_overlap": 1.0, "held_out_fraction": held_out}
