"""A curriculum: from easy to hard, in every pass anew (Lee et al. 2023, arXiv:2310.09518, "Instruction Tuning with Human
Curriculum").

Their questions rise by stage of education and by Bloom's cognitive level, all subjects at one level before the next
("interleaved"): so do the `level`s of rows, whatever they count. Conversations of one level come shuffled.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from lm.config import Config, ConfigError
from lm.training.data.conversations import shuffle


def ascending(keys_N: np.ndarray, places: int, seed: int) -> np.ndarray:
    """Indices of `places` conversations, each pass over all of them sorted by their keys, equal ones shuffled anew."""
    found = []
    for number in range(-(-places // len(keys_N))):
        order = shuffle(len(keys_N), number, seed)
        found.append(order[np.argsort(keys_N[order], kind="stable")])
    return np.concatenate(found)[:places] if found else np.zeros(0, dtype=np.int64)


class Ascending(Config):
    """Differs from the paper: the level is a number that each row gives, or its length, and nothing is asked of a teacher."""

    name: Literal["ascending"] = "ascending"
    by: Literal["level", "length"] = Field("level", description="the rows' field `level`, or tokens")

    def __call__(self, lengths_N: np.ndarray, levels_N: np.ndarray, places: int, seed: int) -> np.ndarray:
        if self.by == "level" and np.isnan(levels_N).any():
            raise ConfigError(
                f"sft.order: ascending by level, but {int(np.isnan(levels_N).sum())} of {len(levels_N)} conversations have no "
                "number in the field `level`: give them one, or take `by: length`"
            )
        return ascending(levels_N if self.by == "level" else lengths_N, places, seed)
