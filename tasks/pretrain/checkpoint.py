"""What pretrain reads of the model in checkpoint.folder."""

from typing import Any


def reads(section: dict[str, Any]) -> str:
    """`model`, where training goes on from it; `either`, a model of our format or Hugging Face's, where a larger one begins as
    it or is taught by it; else nothing."""
    taught = {"salt": "either"}.get(section.get("objective", {}).get("name"), "")
    return {"hugging_face": "model", "random": taught}.get(section["start"]["name"], "either")
