"""Repeated random sampling, RS2 (Okanovic et al. 2024, arXiv:2305.18424): every epoch is a newly drawn random subset.

Without replacement the subsets share no document until all have been in one, which is a shuffled corpus cut into short
epochs; with it each is drawn from all documents. The baseline that any selection of data must beat; the schedule should be
sized to the shortened run, as `tokens` does here.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from lm.config import Config
from tasks.curriculum.plan import DocumentOrder, Documents, shuffled
from tasks.curriculum.stream import reach


class RepeatedSubsets(Config):
    name: Literal["repeated_subsets"] = "repeated_subsets"
    fraction: float = Field(0.1, gt=0, le=1, description="of the documents, that an epoch has")
    replacement: bool = Field(False, description="draw every subset from all documents")

    def __call__(self, documents: Documents, tokens: int, seed: int) -> DocumentOrder:
        """A window is an epoch."""
        count = len(documents.row)
        size = max(1, round(self.fraction * count))
        subsets: list[np.ndarray] = []
        found = round_ = 0
        while found < tokens:
            order = shuffled(count, seed, 2 * round_)
            round_ += 1
            for first in range(0, size if self.replacement else count, size):
                subsets.append(order[first : first + size])
                found += int(documents.length[subsets[-1]].sum())
        drawn = np.concatenate(subsets)
        window = np.repeat(np.arange(len(subsets)), [len(subset) for subset in subsets])
        end = reach(documents.length[drawn], tokens)
        return DocumentOrder(drawn[:end], window[:end])
