"""One source after another: the phased training of LAB (Sudalairaj et al. 2024, arXiv:2403.01081), which Pareja et
al. 2024 (arXiv:2412.13337) hold against stacking all data."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from lm.config import Config


def phases(weights: Sequence[float], places: int) -> np.ndarray:
    """source_P: the first source in its share of the places, then the next; shares are rounded at each border."""
    borders = np.rint(np.cumsum(weights) / sum(weights) * places).astype(np.int64)
    return np.repeat(np.arange(len(weights)), np.diff(borders, prepend=0))


class InTurn(Config):
    """Sources in the order in which params.yaml has them, each for its weight's share of the steps.

    Differs from LAB: the rate of the schedule goes on over the phases, and no examples of an earlier one are replayed.
    """

    name: Literal["in_turn"] = "in_turn"

    def __call__(self, weights_S: Sequence[float], counts_S: Sequence[int], places: int) -> np.ndarray:
        return phases(weights_S, places)
