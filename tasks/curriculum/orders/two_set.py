"""Two-set training (Charton & Kempe 2024, arXiv:2410.07041): a small random set is repeated, the other documents come once.

At every place of the run the next document is one of the set with the probability that gives it its share of the tokens, and
the set is gone through in rounds, so its documents come equally often to within one. Differs from the paper: when the budget
asks for more than the other documents have, they come again, since a corpus ends and its generated examples do not.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from lm.config import Config
from tasks.curriculum.plan import DocumentOrder, Documents, shuffled
from tasks.curriculum.stream import interleave, rounds


class TwoSet(Config):
    name: Literal["two_set"] = "two_set"
    repeated: float = Field(0.01, gt=0, lt=1, description="share of the documents that are in the repeated set")
    share: float = Field(0.25, gt=0, lt=1, description="of the tokens, that comes from the repeated set")

    def __call__(self, documents: Documents, tokens: int, seed: int) -> DocumentOrder:
        order = shuffled(len(documents.row), seed, 3 << 40)
        size = min(max(1, round(self.repeated * len(order))), max(1, len(order) - 1))
        first = round(self.share * tokens)
        sets = [(order[:size], first, 1), (order[size:], tokens - first, 2)]
        drawn = [rounds(m, documents.length, n, seed, draw) for m, n, draw in sets if n and len(m)]
        if len(order) == 1:
            drawn = [rounds(order, documents.length, tokens, seed, 1)]
        found = interleave(drawn, seed, 1)
        return DocumentOrder(found, np.zeros(len(found), dtype=np.int64))
