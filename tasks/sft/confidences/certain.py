"""Every conversation counts as its weights say."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from lm.config import Config
from lm.model import Decoder
from lm.training.data.conversations import Conversation


class Certain(Config):
    name: Literal["certain"] = "certain"

    def __call__(
        self, conversations: Sequence[Conversation], stated_N: np.ndarray, model: Decoder | None, pad_id: int
    ) -> np.ndarray:
        return np.ones(len(conversations))
