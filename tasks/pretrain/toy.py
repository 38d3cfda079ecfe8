"""Pretrain in the toy run."""

from pathlib import Path

from tasks.about.shrink import Params, narrow_shape


def toy(params: Params, folder: Path) -> Params:
    """A narrow model of the same kind, with whole windows in the last step; where it would begin as a smaller one, which a
    narrow one need not fit, from random weights;
    without a small model that teaches, whose tokens are others."""
    section = params["pretrain"]
    samples = {"samples_every": 1} if section.get("samples_every") else {}
    # of stages that fit it
    unsized: Params = {"stages": [], "layers": 0}
    sized = {name: none for name, none in unsized.items() if section.get("growth", {}).get(name)}
    growth = {"growth": {**section["growth"], **sized}} if sized else {}
    start = {} if section["start"]["name"] in ("random", "hugging_face") else {"start": {"name": "random"}}
    taught = section.get("objective", {}).get("name") == "salt"
    objective = {"objective": {"name": "next_token"}} if taught else {}
    warmup = section.get("window_warmup", {})
    windows = {"window_warmup": {**warmup, "steps": 1}} if warmup.get("steps") else {}
    return {
        "model": narrow_shape(section["model"]),
        "compile": "off",
        **samples,
        **start,
        **growth,
        **objective,
        **windows,
    }
