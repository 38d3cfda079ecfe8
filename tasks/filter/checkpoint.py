"""What filter reads of the model in checkpoint.folder."""

from typing import Any


def reads(section: dict[str, Any]) -> str:
    """`model`, where a rule judges by what it makes of a text; else nothing."""
    return "model" if any(rule.get("name") in ("perplexity", "difference") for rule in section.values()) else ""
