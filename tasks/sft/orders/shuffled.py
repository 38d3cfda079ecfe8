"""Every pass is a new shuffle."""

from typing import Literal

import numpy as np

from lm.config import Config
from lm.training.data.conversations import shuffle


class Shuffled(Config):
    name: Literal["shuffled"] = "shuffled"

    def __call__(self, lengths_N: np.ndarray, levels_N: np.ndarray, places: int, seed: int) -> np.ndarray:
        passes = [shuffle(len(lengths_N), number, seed) for number in range(-(-places // len(lengths_N)))]
        return np.concatenate(passes)[:places] if passes else np.zeros(0, dtype=np.int64)
