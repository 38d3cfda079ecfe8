"""Documents sorted by a score: easy to hard, or from the worst to the best.

Ascending quality is the order of Luo et al. 2025 ("How Learning Rate Decay Wastes Your Best Data in Curriculum-Based LLM
Pretraining"), who pair it with a rate that hardly decays and an average of the last weights (the schedule and average of
pretrain). Documents are drawn at random first, as many as the budget takes, and then sorted, so that a budget smaller than
the corpus does not end before its best part. Equal scores stay in the random order of the draw.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from lm.config import Config
from tasks.curriculum.plan import DocumentOrder, Documents
from tasks.curriculum.stream import rounds


def parts(lengths: np.ndarray, count: int) -> np.ndarray:
    """The part of each when they are cut, in order, into `count` parts of as many tokens: by where each begins."""
    ends = np.cumsum(lengths)
    return (ends - lengths) * count // ends[-1]


class ByScore(Config):
    name: Literal["by_score"] = "by_score"
    score: str = Field(description="length, bytes_per_token, or what the filter stage called a column score_<this>")
    descending: bool = Field(False, description="begin with the highest scores")
    bins: int = Field(0, ge=0, description="parts of as many tokens, shuffled within; 0: strictly sorted")
    cycles: int = Field(
        1, gt=0, description="times that the plan goes through the scores, each time with other documents"
    )

    def __call__(self, documents: Documents, tokens: int, seed: int) -> DocumentOrder:
        scores = documents.score(self.score, "curriculum.order.score").astype(np.float64)
        drawn = rounds(np.arange(len(documents.row)), documents.length, tokens, seed)
        cycle = parts(documents.length[drawn], self.cycles)
        order = np.lexsort((-scores[drawn] if self.descending else scores[drawn], cycle))
        if not self.bins:
            return DocumentOrder(drawn[order], None)
        bins = np.empty(len(drawn), dtype=np.int64)
        for each in range(int(cycle[-1]) + 1):  # a cycle is a slice of the draw
            mine = order[slice(*np.searchsorted(cycle, (each, each + 1)))]
            bins[mine] = each * self.bins + parts(documents.length[drawn[mine]], self.bins)
        back = np.argsort(bins, kind="stable")
        return DocumentOrder(drawn[back], bins[back])
