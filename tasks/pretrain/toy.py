"""Pretrain in the toy run."""

from pathlib import Path

from tasks.about.shrink import Params, narrow


def toy(params: Params, folder: Path) -> Params:
    """A narrow model of the same kind, with whole windows in the last step; where it would begin as a smaller one, which a
    narrow one need not fit, from random weights."""
    section = params["pretrain"]
    samples = {"samples_every": 1} if section.get("samples_every") else {}
    start = {} if section["start"]["name"] in ("random", "hugging_face") else {"start": {"name": "random"}}
    windows = section.get("window_warmup", {})
    grow = {"window_warmup": {**windows, "steps": 1}} if windows.get("steps") else {}
    return {"model": narrow(section["model"]), "compile": "off", **samples, **start, **grow}
