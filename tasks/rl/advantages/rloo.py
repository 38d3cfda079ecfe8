"""The mean of the others as the baseline: REINFORCE leave-one-out, Ahmadian et al. 2024 (arXiv:2402.14740), section 2.2."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from lm.config import Config
from tasks.rl.advantages.base import Baseline, rewards_differ


def leave_one_out(rewards_GS: Tensor, mask_GS: Tensor) -> Tensor:
    """advantages_GS: the reward less the mean of the group's other valid samples.

    A sample without another valid one in its group has no baseline: its advantage is 0, as it is where all earned the same.
    """
    valid_GS = mask_GS > 0
    rewards_GS = torch.where(valid_GS, rewards_GS, 0.0)
    others_G1 = valid_GS.sum(1, keepdim=True) - 1
    baseline_GS = (rewards_GS.sum(1, keepdim=True) - rewards_GS) / others_G1.clamp(min=1)
    return torch.where(valid_GS & rewards_differ(rewards_GS, mask_GS)[:, None], rewards_GS - baseline_GS, 0.0)


class Rloo(Config):
    """Advantages that are S / (S - 1) times those of grpo without normalise_std in a group of S valid samples, so that groups
    of which the verifier failed on some weigh otherwise. Differs from the paper: losses/ says over what it is summed and
    whether ratios are clipped; the paper takes one step a sample, in which nothing can be, and its KL term is in the reward."""

    name: Literal["rloo"] = "rloo"
    baseline: ClassVar[Baseline] = "none"

    def __call__(self, rewards_GS: Tensor, mask_GS: Tensor, baseline_G: Tensor | None = None) -> Tensor:
        return leave_one_out(rewards_GS, mask_GS)
