"""What a source has read."""

from dataclasses import dataclass, field

from lm.conversations.dialogue import Refused
from lm.training.data.conversations import Conversation


@dataclass(frozen=True)
class Read:
    """conversations in tokens, whatever their length; levels, how high each stands in a curriculum, NaN where nothing says so;
    refused: rows that are none, with the reason."""

    conversations: list[Conversation]
    levels: list[float]
    refused: list[Refused] = field(default_factory=list)
