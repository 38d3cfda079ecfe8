"""What a source has read, and how rows of dialogues become that."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lm.conversations.dialogue import Dialogue, InvalidRow
from lm.conversations.encode import Learned, encode_dialogue
from lm.conversations.files import invalid_row
from lm.tokenizer import Tokenizer
from lm.training.data.conversations import Conversation


@dataclass(frozen=True)
class SourceData:
    """conversations in tokens, whatever their length; levels, how high each stands in a curriculum, NaN where nothing says so;
    refused: rows that are none, with the reason; confidences, how sure one is of each, NaN where nothing says so, and none at
    all where nothing is said of any."""

    conversations: list[Conversation]
    levels: list[float]
    refused: list[InvalidRow] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)

    def stated(self) -> list[float]:
        """Confidence of each conversation, NaN where nothing says so."""
        return self.confidences or [np.nan] * len(self.conversations)


def read_rows(
    rows: Sequence[Dialogue | InvalidRow], form: Any, tokenizer: Tokenizer, learned: Learned, seed: int
) -> SourceData:
    """The rows in tokens, each written by a method of formats/; those that cannot be are refused, in the order of the rows."""
    written = iter(form([row for row in rows if isinstance(row, Dialogue)], seed))
    read = SourceData([], [])
    for row in rows:
        if isinstance(row, InvalidRow):
            read.refused.append(row)
            continue
        examples = next(written)
        if not examples:
            reason = f"format {form.name}: no message of a user stands before the last answer that counts"
            read.refused.append(invalid_row(row.where, reason, row.messages))
        for example in examples:
            try:
                made = encode_dialogue(example, tokenizer, learned)
            except ValueError as error:
                read.refused.append(invalid_row(example.where, str(error), example.messages))
                continue
            read.conversations.extend(made)
            read.levels.extend([np.nan if example.level is None else example.level] * len(made))
            read.confidences.extend([np.nan if example.confidence is None else example.confidence] * len(made))
    return read
