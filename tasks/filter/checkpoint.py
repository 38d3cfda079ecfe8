"""What filter reads of the model in checkpoint.folder."""

from typing import Any


def reads(section: dict[str, Any]) -> str:
    """`model`, where a rule judges by perplexity; else nothing."""
    return "model" if any(rule.get("name") == "perplexity" for rule in section.values()) else ""
