"""Shuffled packing: documents in random order, end to end, cut into sequences of one length, in random order again.

The usual plan of pretraining (GPT-3, arXiv:2005.14165, section D). Neighbouring sequences share one token, so that every
token is predicted once, and a document's first token is predicted from the end of the one before it. Without the second
shuffle (as in Megatron-LM) a step would hold the pieces of a handful of documents, and its gradient would be theirs.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from lm.config import Config
from tasks.core.config import ConfigError
from tasks.curriculum.plan import Budget, Documents, Ranges, shuffled


def pack(documents: Documents, order: np.ndarray, pieces: np.ndarray, per_step: int, length: int) -> Ranges:
    """The documents in this order as one stream, and of it the pieces of length + 1 tokens with these numbers, a sequence
    each; the stream must reach as far."""
    lengths = documents.length[order]
    ends = np.cumsum(lengths)
    begins = ends - lengths
    firsts = pieces.astype(np.int64) * length
    lasts = firsts + length + 1
    # the first and last document that each sequence touches, then one range for each pair of (sequence, document)
    left, right = np.searchsorted(ends, firsts, side="right"), np.searchsorted(begins, lasts, side="left")
    counts = right - left
    sequence = np.repeat(np.arange(len(pieces)), counts)
    place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(left, counts)
    lower = np.maximum(begins[place], firsts[sequence])
    upper = np.minimum(ends[place], lasts[sequence])
    chosen = order[place]
    return Ranges(
        step=sequence // per_step,
        sequence=sequence % per_step,
        document=documents.row[chosen],
        start=documents.start[chosen] + lower - begins[place],
        length=upper - lower,
    )


class ShuffledPacking(Config):
    name: Literal["shuffled_packing"] = "shuffled_packing"
    sequence_length: int = Field(256, gt=0, description="predictions a sequence")

    def __call__(self, documents: Documents, budget: Budget, seed: int) -> Ranges:
        """Round after round through all documents, each in an order of its own, until the budget is met."""
        per_step = budget.tokens_per_step // self.sequence_length
        if not per_step:
            raise ConfigError(
                f"curriculum.tokens_per_step: {budget.tokens_per_step} is less than one sequence of "
                f"curriculum.method.sequence_length {self.sequence_length}"
            )
        sequences = budget.steps * per_step
        needed, available = sequences * self.sequence_length + 1, int(documents.length.sum())
        rounds = -(-needed // available)
        order = np.concatenate([shuffled(len(documents.row), seed, 2 * r) for r in range(rounds)])
        a_round = max(1, available // self.sequence_length)
        begins = range(0, sequences, a_round)
        pieces = [b + shuffled(min(a_round, sequences - b), seed, 2 * r + 1) for r, b in enumerate(begins)]
        return pack(documents, order, np.concatenate(pieces), per_step, self.sequence_length)
