"""What tokenize reads of the model in checkpoint.folder."""

from typing import Any


def reads(section: dict[str, Any]) -> str:
    """`tokenizer`, where it is taken from there; else nothing."""
    return "tokenizer" if section["method"]["name"] == "hugging_face" else ""
