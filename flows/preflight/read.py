"""What stages read from outside the graph, as their rooms look at it."""

from typing import Any

from tasks.about.finding import Finding, findings_of
from tasks.runner.rooms import part_of


def inputs(params: dict[str, Any], stages: list[str]) -> list[Finding]:
    """What is wrong with what these stages read from outside the graph, such as the sources of text."""
    rooms = [room for stage in dict.fromkeys(stages) if (room := part_of(stage, "inputs"))]
    if not rooms:
        return []
    from tasks.about.sections import Sections  # imports torch

    return findings_of(*(lambda room=room: room.inputs(Sections(params)) for room in rooms))
