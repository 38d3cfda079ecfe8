"""Shuffled packing: documents in random order, end to end, cut into sequences of one length.

The usual plan of pretraining (GPT-3, arXiv:2005.14165, section D). Neighbouring sequences share one token, so that every
token is predicted once, and a document's first token is predicted from the end of the one before it.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from lm.config import Config
from tasks.core.config import ConfigError
from tasks.curriculum.plan import Budget, Documents, Ranges, shuffled


def pack(documents: Documents, order: np.ndarray, sequences: int, per_step: int, length: int) -> Ranges:
    """The documents in this order as `sequences` sequences of length + 1 tokens; `order` must hold enough tokens."""
    lengths = documents.length[order]
    ends = np.cumsum(lengths)
    begins = ends - lengths
    firsts = np.arange(sequences, dtype=np.int64) * length
    lasts = firsts + length + 1
    # the first and last document that each sequence touches, then one range for each pair of (sequence, document)
    left, right = np.searchsorted(ends, firsts, side="right"), np.searchsorted(begins, lasts, side="left")
    counts = right - left
    sequence = np.repeat(np.arange(sequences), counts)
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
        order = np.concatenate([shuffled(len(documents.row), seed, r) for r in range(rounds)])
        return pack(documents, order, sequences, per_step, self.sequence_length)
