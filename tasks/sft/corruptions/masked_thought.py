"""Masked thought fine-tuning: some tokens of an answer are hidden from what comes after them (Chen et al. 2024,
arXiv:2403.02178).

What follows a hidden step must be found from the question and from what is left, which keeps a model from leaning on the words
just before. Letters: B rows, T predictions.
"""

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from tasks.sft.corruptions.base import Corruption


def hidden(ids_BT: Tensor, mask_BT: Tensor, token: int, share: float, generator: np.random.Generator) -> Tensor:
    """ids_BT with each token of an answer replaced by `token` with probability `share`. A token is of an answer where it was
    itself predicted, so a prompt's last token, which predicts the first of an answer, stays."""
    answer_BT = torch.zeros_like(mask_BT, dtype=torch.bool)
    answer_BT[:, 1:] = mask_BT[:, :-1] > 0
    chosen_BT = torch.from_numpy(generator.random(tuple(ids_BT.shape), dtype=np.float32)) < share
    return ids_BT.masked_fill(answer_BT & chosen_BT, token)


class MaskedThought(Corruption):
    """Targets stay as they are. The share grows evenly from 0 over the first `warmup` of the steps, as in the paper's code.

    Differs from the paper: the mask is the token of padding, so that no vocabulary grows.
    """

    name: Literal["masked_thought"] = "masked_thought"
    share: float = Field(0.4, gt=0, lt=1, description="of an answer's tokens that are hidden")
    warmup: float = Field(2 / 3, ge=0, le=1, description="share of the steps in which the hidden ones become as many")

    def __call__(self, ids_BT: Tensor, mask_BT: Tensor, pad_id: int, seed: int, step: int, steps: int) -> Tensor:
        reached = min(1.0, step / (self.warmup * steps)) if self.warmup else 1.0
        generator = np.random.Generator(np.random.Philox(key=[seed, step]))
        return hidden(ids_BT, mask_BT, pad_id, self.share * reached, generator)
