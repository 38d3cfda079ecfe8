"""A reward model in the toy run."""

from pathlib import Path

from tasks.about.pairs import toy_pairs, write_toy_pairs
from tasks.about.shrink import Params


def toy(params: Params, folder: Path) -> Params:
    """Two steps over few pairs, of a file, in two rounds at most."""
    return {**toy_pairs(params["reward"], folder), "rounds": min(params["reward"].get("rounds", 1), 2)}


def inputs(params: Params, folder: Path) -> Params:
    """Section of the toy run, once its file is made."""
    write_toy_pairs(folder)
    return toy(params, folder)
