"""Pruning in the toy run."""

from pathlib import Path

from tasks.about.shrink import Params


def toy(params: Params, folder: Path) -> Params:
    """A few batches to calibrate with; of a toy's layers and heads all stay, of its channels some where some are to go."""
    section = params["prune"]
    few = {**section.get("calibration", {}), "problems": 4, "sequences": 2}
    return {
        "calibration": few,
        "layers": 0,
        "heads": 0,
        "ffn_width": 8 if section.get("ffn_width") else 0,
        "sparsities": True,
    }
