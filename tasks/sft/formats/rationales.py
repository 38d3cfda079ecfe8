"""Two tasks of one example: the answer, and what leads to it (Hsieh et al. 2023, "Distilling Step-by-Step!", arXiv:2305.02301,
section 3.2).

The rationale is learned beside the answer and not before it, so that nothing of it is written when the answer is asked for.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from lm.config import ConfigError
from lm.conversations.dialogue import Dialogue
from tasks.sft.formats.base import Format, last_exchange, replace_exchange, texts

# Stands before the question where the rationale is asked for
EXPLAIN = "[rationale] "


class Rationales(Format):
    """Rows without a rationale give their answer alone; of a problem the rationale is what its demonstration says before the
    answer.

    Differs from the paper: the answer is asked for without a prefix, so that it is found by whoever asks as ever; rationales
    are those that rows have, and none is got from a large model; the two tasks are mixed in a mean over tokens, where theirs
    adds two means.
    """

    name: Literal["rationales"] = "rationales"
    divides: ClassVar[bool] = True
    weight: float = Field(1.0, gt=0, description="of a rationale's tokens, beside the answers'")

    def __call__(self, dialogues: Sequence[Dialogue], seed: int) -> list[list[Dialogue]]:
        if dialogues and not any(dialogue.rationale for dialogue in dialogues):
            raise ConfigError(
                "sft.sources: format rationales: no row has a text in the field `rationale`, and no demonstration of a problem "
                "says anything before its answer"
            )
        return [[dialogue, *self._explained(dialogue)] for dialogue in dialogues]

    def _explained(self, dialogue: Dialogue) -> list[Dialogue]:
        place = last_exchange(dialogue)
        if place is None or dialogue.rationale is None:
            return []
        asked, _ = texts(dialogue, place)
        weights = [self.weight * weight if number == place else 0.0 for number, weight in enumerate(dialogue.weights)]
        return [replace(replace_exchange(dialogue, place, EXPLAIN + asked, dialogue.rationale), weights=weights)]
