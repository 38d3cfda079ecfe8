"""Reinforcement learning in the toy run."""

from pathlib import Path

from tasks.about.shrink import Params, rows


def toy(params: Params, folder: Path) -> Params:
    """Two updates, of as few problems and answers as there can be."""
    section = params["rl"]
    parts = min(section.get("minibatches", 2), 2)
    few = {"prompts": parts * rows(section, 2), "samples": 2, "updates": 1, "minibatches": parts}
    return {"steps": 2, **few, "compile": "off"}
