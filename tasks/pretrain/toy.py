"""Pretrain in the toy run."""

from pathlib import Path

from tasks.about.shrink import Params, narrow


def toy(params: Params, folder: Path) -> Params:
    """A narrow model of the same kind, with whole windows in the last step; where it would begin as a smaller one, which a
    narrow one need not fit, from random weights."""
    section = params["pretrain"]
    samples = {"samples_every": 1} if section.get("samples_every") else {}
    # of stages that fit it
    growth = {"growth": {**section["growth"], "stages": []}} if section.get("growth", {}).get("stages") else {}
    start = {} if section["start"]["name"] in ("random", "hugging_face") else {"start": {"name": "random"}}
    warmup = section.get("window_warmup", {})
    windows = {"window_warmup": {**warmup, "steps": 1}} if warmup.get("steps") else {}
    return {"model": narrow(section["model"]), "compile": "off", **samples, **start, **growth, **windows}
