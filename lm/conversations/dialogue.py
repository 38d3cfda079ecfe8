"""A conversation as data: who said what, and how much of it a model is to learn."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Dialogue:
    """Messages of one conversation, as chat templates know them.

    where: `file:row`, by which a message names it. messages: each with `role` and `content`, and `tool_calls` where it has
    them. weights: of each message, how much its tokens count in a loss; 0 of what is not learned. tools: JSON schemas of the
    tools there are, None where there are none. Where its file says nothing, None or nothing: level, how hard it is, or how high
    in a curriculum; confidence, how sure one is of its answers; rationale, what leads to the last answer; markers, what kind of
    row it is, by name.
    """

    where: str
    messages: list[dict[str, Any]]
    weights: list[float] = field(default_factory=list)
    tools: list[Any] | None = None
    level: float | None = None
    confidence: float | None = None
    rationale: str | None = None
    markers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class InvalidRow:
    """A row that is no conversation: where it stands, why, and how it begins."""

    where: str
    reason: str
    excerpt: str
