"""Conversations are read as they are."""

from typing import Literal

from torch import Tensor

from lm.config import Config


class Untouched(Config):
    name: Literal["untouched"] = "untouched"

    def __call__(self, ids_BT: Tensor, mask_BT: Tensor, pad_id: int, seed: int, step: int, steps: int) -> Tensor:
        return ids_BT
