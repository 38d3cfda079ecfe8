"""Supervised fine-tuning in the toy run."""

from pathlib import Path

from tasks.about.shrink import Params, rows


def toy(params: Params, folder: Path) -> Params:
    """Two steps."""
    return {"steps": 2, "batch": rows(params["sft"], 4), "compile": "off"}
