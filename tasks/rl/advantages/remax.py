"""The greedy answer as the baseline: ReMax, Li et al. 2023 (arXiv:2310.10505)."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from lm.config import Config


def above_greedy(rewards_GS: Tensor, mask_GS: Tensor, greedy_G: Tensor) -> Tensor:
    """advantages_GS: the reward less that of the greedy answer to the same problem.

    A problem whose greedy answer has no valid reward (NaN) has no baseline: all its advantages are 0.
    """
    greedy_G1 = greedy_G[:, None]
    valid_GS = (mask_GS > 0) & ~torch.isnan(greedy_G1)
    return torch.where(valid_GS, rewards_GS - greedy_G1, 0.0)


class Remax(Config):
    name: Literal["remax"] = "remax"
    needs_greedy: ClassVar[bool] = True

    def __call__(self, rewards_GS: Tensor, mask_GS: Tensor, greedy_G: Tensor | None = None) -> Tensor:
        """Raises ValueError without the greedy rewards."""
        if greedy_G is None:
            raise ValueError("remax needs greedy_G, the reward of the greedy answer to each problem")
        return above_greedy(rewards_GS, mask_GS, greedy_G)
