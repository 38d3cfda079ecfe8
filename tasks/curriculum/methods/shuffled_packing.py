"""Shuffled packing: documents end to end, cut into sequences of one length, in random order within what the order allows.

The usual plan of pretraining (GPT-3, arXiv:2005.14165, section D). Neighbouring sequences share one token, so that every
token is predicted once, and a document's first token is predicted from the end of the one before it. Without the second
shuffle (as in Megatron-LM) a step would hold the pieces of a handful of documents, and its gradient would be theirs.
"""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from lm.config import Config
from tasks.curriculum.plan import Budget, Documents, Draw, Ranges
from tasks.curriculum.stream import cut_sequences


class ShuffledPacking(Config):
    name: Literal["shuffled_packing"] = "shuffled_packing"
    takes_orders: ClassVar[bool] = True
    sequence_length: int = Field(256, gt=0, description="predictions a sequence")

    def __call__(self, documents: Documents, draw: Draw, budget: Budget, seed: int) -> Ranges:
        """Every step has as many sequences as fit into it."""
        T = self.sequence_length
        per_step = budget.sequences_a_step(T, "curriculum.method.sequence_length")
        firsts = np.arange(budget.steps * per_step) * T
        a_round = max(1, int(documents.length.sum()) // T)
        return cut_sequences(draw(len(firsts) * T + 1), firsts, T, per_step, a_round, seed)
