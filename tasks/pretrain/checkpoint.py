"""What pretrain reads of the model in checkpoint.folder."""

from typing import Any


def reads(section: dict[str, Any]) -> str:
    """`model`, where training goes on from it; `either`, a model of our format or Hugging Face's, where a larger one begins as
    it; else nothing."""
    return {"hugging_face": "model", "random": ""}.get(section["start"]["name"], "either")
