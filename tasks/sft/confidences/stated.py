"""Answers count by the confidence that their rows state, as of labels that a program or a model gave (Noise-Aware Training,
Sarkhel et al. 2024, arXiv:2404.00488)."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from lm.config import Config, ConfigError
from lm.model import Decoder
from lm.training.data.conversations import Conversation


class Stated(Config):
    """Rows that state none are those that somebody checked: 1.

    What is the paper's: labels of which one is less sure weigh less in the loss. Differs from the paper: whoever labels the
    rows says how sure it is of them, in the field `confidence`; the loss is divided by the weights of the step.
    """

    name: Literal["stated"] = "stated"

    def __call__(
        self, conversations: Sequence[Conversation], stated_N: np.ndarray, model: Decoder | None, pad_id: int
    ) -> np.ndarray:
        if np.isnan(stated_N).all():
            raise ConfigError(
                "sft.confidence: stated, but no conversation has a number in the field `confidence`: give some, or take "
                "`name: likelihood`"
            )
        if wrong := int(((stated_N < 0) | (stated_N > 1)).sum()):
            raise ConfigError(
                f"sft.confidence: stated, but {wrong} of {len(stated_N)} conversations have a `confidence` that is not from 0 "
                "to 1: correct them"
            )
        return np.where(np.isnan(stated_N), 1.0, stated_N)
