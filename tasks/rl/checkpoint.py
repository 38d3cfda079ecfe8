"""What of the checkpoint reinforcement learning reads beside the model that it begins with."""

from typing import Any

from tasks.core.config import CHECKPOINT


def reads(section: dict[str, Any]) -> str:
    """The model, where a reward asks the checkpoint for verdicts."""
    rewards = section.get("rewards") or []
    asked = any(
        isinstance(part, dict) and part.get("name") == "judge" and part.get("by") == "scorer" for part in rewards
    )
    return "model" if asked and section.get("scorer") == CHECKPOINT else ""
