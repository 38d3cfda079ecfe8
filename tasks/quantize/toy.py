"""Quantization in the toy run."""

from pathlib import Path

from tasks.about.shrink import Params


def toy(params: Params, folder: Path) -> Params:
    """A few batches to calibrate with."""
    return {"calibration": {**params["quantize"].get("calibration", {}), "problems": 4, "sequences": 2}}
