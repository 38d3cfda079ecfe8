"""Group-relative advantages: GRPO, DeepSeekMath (arXiv:2402.03300), section 4.1.2."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.config import Config
from tasks.rl.advantages.base import Baseline, rewards_differ


def group_relative(rewards_GS: Tensor, mask_GS: Tensor, normalise_std: bool, eps: float) -> Tensor:
    """advantages_GS: the reward less the mean of its group's valid samples, over their (population) standard deviation.

    A group with fewer than two valid samples, or equal rewards, teaches nothing: all its advantages are 0.
    """
    valid_GS = mask_GS > 0
    rewards_GS = torch.where(valid_GS, rewards_GS, 0.0)
    num_valid_G1 = valid_GS.sum(1, keepdim=True).clamp(min=1)
    mean_G1 = rewards_GS.sum(1, keepdim=True) / num_valid_G1
    told_GS = valid_GS & rewards_differ(rewards_GS, mask_GS)[:, None]
    centred_GS = torch.where(told_GS, rewards_GS - mean_G1, 0.0)
    if not normalise_std:
        return centred_GS
    return centred_GS / (torch.sqrt(centred_GS.square().sum(1, keepdim=True) / num_valid_G1) + eps)


class Grpo(Config):
    name: Literal["grpo"] = "grpo"
    baseline: ClassVar[Baseline] = "none"
    normalise_std: bool = Field(True, description="false: Dr. GRPO, arXiv:2503.20783, which finds the division a bias")
    eps: float = Field(
        1e-4, gt=0, description="added to the standard deviation; keeps rounding from becoming an advantage"
    )

    def __call__(self, rewards_GS: Tensor, mask_GS: Tensor, baseline_G: Tensor | None = None) -> Tensor:
        return group_relative(rewards_GS, mask_GS, self.normalise_std, self.eps)
