"""The best answer to a problem and the worst: the pair of an online preference, Guo et al. 2024 (arXiv:2402.04792)."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from lm.config import Config
from tasks.rl.advantages.base import Baseline


def best_and_worst(rewards_GS: Tensor, mask_GS: Tensor) -> Tensor:
    """advantages_GS: 1 of the valid sample with the highest reward of its group, -1 of the one with the lowest, of equal ones
    the first, and 0 of all others. A group whose valid samples all earned the same, or that has fewer than two, is no pair:
    all of its advantages are 0."""
    valid_GS = mask_GS > 0
    highest_GS, lowest_GS = (torch.where(valid_GS, rewards_GS, end) for end in (-torch.inf, torch.inf))
    best_G1, worst_G1 = highest_GS.argmax(1, keepdim=True), lowest_GS.argmin(1, keepdim=True)
    one_G1 = torch.ones_like(rewards_GS[:, :1])
    # where all are equal, or none counts, the best and the worst are the same first sample, and add up to 0
    return torch.zeros_like(rewards_GS).scatter(1, best_G1, one_G1).scatter_add(1, worst_G1, -one_G1)


class BestAndWorst(Config):
    """The pairs that the loss `online_dpo` learns from; losses of single answers learn the best and unlearn the worst.

    Differs from the paper: a model that annotates chooses between two answers there, here the rewards choose the ends of a
    group, which rl.samples: 2 makes a pair of two; answers that are equal are left out, where an annotator always chooses."""

    name: Literal["best_and_worst"] = "best_and_worst"
    baseline: ClassVar[Baseline] = "none"

    def __call__(self, rewards_GS: Tensor, mask_GS: Tensor, baseline_G: Tensor | None = None) -> Tensor:
        return best_and_worst(rewards_GS, mask_GS)
