"""Pretrain in the toy run."""

from pathlib import Path

from tasks.about.shrink import Params, narrow


def toy(params: Params, folder: Path) -> Params:
    """A narrow model of the same kind."""
    section = params["pretrain"]
    samples = {"samples_every": 1} if section.get("samples_every") else {}
    return {"model": narrow(section["model"]), "compile": "off", **samples}
