"""The question is learned from the answer (Ye et al. 2022, "Guess the Instruction!", arXiv:2210.02969, their likelihood term;
the backward model of instruction backtranslation, Li et al. 2023, arXiv:2308.06259)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from lm.conversations.dialogue import Dialogue
from tasks.sft.formats.base import Format, last_exchange, replace_exchange, texts

# What is asked in place of the question, so that a model which learns both ways can tell them apart
ASK = "What was asked, if this is the answer? "


def flipped(dialogue: Dialogue, place: int) -> Dialogue:
    """The last exchange turned round: the user says the answer, the assistant what was asked, and that alone counts."""
    asked, answered = texts(dialogue, place)
    weights = [weight if number == place else 0.0 for number, weight in enumerate(dialogue.weights)]
    return replace(replace_exchange(dialogue, place, ASK + answered, asked), weights=weights)


class Flipped(Format):
    """Earlier exchanges are read and not learned.

    Differs from Flipped Learning: the whole question is learned, not the instruction given the input; there is no unlikelihood
    term of the question beside a wrong answer; and no stage chooses an answer by the question that it makes likeliest.
    """

    name: Literal["flipped"] = "flipped"

    def __call__(self, dialogues: Sequence[Dialogue], seed: int) -> list[list[Dialogue]]:
        places = [last_exchange(dialogue) for dialogue in dialogues]
        return [
            [] if place is None else [flipped(dialogue, place)]
            for dialogue, place in zip(dialogues, places, strict=True)
        ]
