"""What is made of rl's section when parameters are composed."""

from typing import Any

from tasks.core.config import CHECKPOINT


def composed(section: dict[str, Any]) -> dict[str, Any]:
    """The section with a model to score with, which dvc.yaml names an edge by: where none is chosen, the checkpoint, which no
    default reward reads."""
    return {**section, "scorer": section.get("scorer", CHECKPOINT)}
