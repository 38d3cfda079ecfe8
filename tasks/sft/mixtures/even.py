"""Every stretch of a run has its share of each source, by the weights."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from lm.config import Config


def spread_sources(weights: Sequence[float], places: int) -> np.ndarray:
    """source_P of each place: sources by their weights, spread evenly: in the first places, however many, a source has its
    share of them to within (S + 1) / 2, where there are S sources. The first of more places are those of fewer."""
    total = sum(weights)
    turns, sources = [], []
    for number, weight in enumerate(weights):
        count = math.ceil(places * weight / total) + 1
        turns.append((np.arange(count) + 0.5) * (total / weight))
        sources.append(np.full(count, number))
    source = np.concatenate(sources)
    return source[np.lexsort((source, np.concatenate(turns)))][:places]


class Even(Config):
    """All sources stacked, in one phase: what Pareja et al. 2024 (arXiv:2412.13337) find as good as phases, and simpler."""

    name: Literal["even"] = "even"

    def __call__(self, weights_S: Sequence[float], counts_S: Sequence[int], places: int) -> np.ndarray:
        return spread_sources(weights_S, places)
