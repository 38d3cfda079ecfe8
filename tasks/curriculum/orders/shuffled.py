"""Round after round through all documents, each in a random order of its own: every epoch sees each document once."""

from typing import Literal

import numpy as np

from lm.config import Config
from tasks.curriculum.plan import DocumentOrder, Documents
from tasks.curriculum.stream import rounds


class Shuffled(Config):
    name: Literal["shuffled"] = "shuffled"

    def __call__(self, documents: Documents, tokens: int, seed: int) -> DocumentOrder:
        drawn = rounds(np.arange(len(documents.row)), documents.length, tokens, seed)
        return DocumentOrder(drawn, np.zeros(len(drawn), dtype=np.int64))
