"""What pretrain reads of the model in checkpoint.folder."""

from typing import Any


def reads(section: dict[str, Any]) -> str:
    """`model`, where training goes on from it; else nothing."""
    return "model" if section["start"]["name"] == "hugging_face" else ""
