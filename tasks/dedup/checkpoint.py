"""What dedup reads of the model in checkpoint.folder."""

from typing import Any


def reads(section: dict[str, Any]) -> str:
    """`model`, where documents are embedded by it; else nothing."""
    embedding = section.get("semantic", {}).get("embedding", {})
    return "model" if embedding.get("name") == "checkpoint" else ""
