"""What formats of examples have in common: the exchange that they write anew."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import ClassVar

from lm.config import Config
from lm.conversations.dialogue import Dialogue
from lm.problems.example import unit_hash


class Format(Config):
    """divides: whether an answer is asked for by itself, and what leads to it stands in `rationale`."""

    divides: ClassVar[bool] = False

    def __call__(self, dialogues: Sequence[Dialogue], seed: int) -> list[list[Dialogue]]:
        """What is learned of each dialogue of a source: dialogues, or none where it cannot be written so. The dialogues
        themselves stay as they are."""
        return [[dialogue] for dialogue in dialogues]


def last_exchange(dialogue: Dialogue) -> int | None:
    """Place of the last message that counts, where it has no calls of tools and the user spoke right before it; else None."""
    place = max(number for number, weight in enumerate(dialogue.weights) if weight)
    asked = dialogue.messages[place - 1] if place else {"role": "nobody"}
    return place if asked["role"] == "user" and not dialogue.messages[place].get("tool_calls") else None


def replace_exchange(dialogue: Dialogue, place: int, asked: str, answered: str) -> Dialogue:
    """The dialogue with other texts in the exchange whose answer stands at this place."""
    messages = [dict(message) for message in dialogue.messages]
    messages[place - 1]["content"], messages[place]["content"] = asked, answered
    return replace(dialogue, messages=messages)


def texts(dialogue: Dialogue, place: int) -> tuple[str, str]:
    """(what was asked, the answer) of the exchange whose answer stands at this place."""
    return dialogue.messages[place - 1]["content"], dialogue.messages[place]["content"]


def uniform_draw(what: str, seed: int, dialogue: Dialogue) -> float:
    """A number in [0, 1) that is of the row's place in its file, the seed and what it is for, wherever the file lies."""
    return unit_hash(f"{what}:{seed}:{PurePath(dialogue.where).name}")
