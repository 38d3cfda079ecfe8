"""What every advantage says that it needs, and what those with a baseline from outside of the group share.

G problems, S answers to each; B answers, T predictions of each.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.config import Config

Baseline = Literal["none", "greedy", "critic"]


def rewards_differ(rewards_GS: Tensor, mask_GS: Tensor) -> Tensor:
    """differ_G: whether two valid samples of a group have rewards that are not the same number; never of fewer than two. Where
    none do there is nothing to learn, and a mean in float32 would make rounding of it: that of eight times 1.2 is not 1.2."""
    valid_GS = mask_GS > 0
    highest_G = torch.where(valid_GS, rewards_GS, -torch.inf).amax(1)
    return highest_G > torch.where(valid_GS, rewards_GS, torch.inf).amin(1)


def subtract_baseline(rewards_GS: Tensor, mask_GS: Tensor, baseline_G: Tensor) -> Tensor:
    """advantages_GS: the reward less the baseline of its problem. A problem without one (NaN) has none: all its advantages
    are 0."""
    baseline_G1 = baseline_G[:, None]
    valid_GS = (mask_GS > 0) & ~torch.isnan(baseline_G1)
    return torch.where(valid_GS, rewards_GS - baseline_G1, 0.0)


def advantages_and_returns(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, discount: float, decay: float
) -> tuple[Tensor, Tensor]:
    """(advantages_BT, returns_BT), 0 outside of the mask. The advantage of a token is the sum of discount x decay to the power
    of the tokens in between, times reward + discount x value of the next - value, over itself and those behind it (equation 16
    of generalized advantage estimation, Schulman et al. 2015, arXiv:1506.02438); the return, which its value should be, is the
    advantage and the value. Tokens outside of the mask are no steps: what an environment adds takes no time."""
    advantages_BT = torch.zeros_like(values_BT)
    ahead_B, sum_B = torch.zeros_like(values_BT[:, 0]), torch.zeros_like(values_BT[:, 0])
    for t in reversed(range(values_BT.shape[1])):
        own_B = mask_BT[:, t] > 0
        here_B = rewards_BT[:, t] + discount * ahead_B - values_BT[:, t] + discount * decay * sum_B
        advantages_BT[:, t] = torch.where(own_B, here_B, 0.0)
        sum_B = torch.where(own_B, here_B, sum_B)
        ahead_B = torch.where(own_B, values_BT[:, t], ahead_B)
    return advantages_BT, torch.where(mask_BT > 0, advantages_BT + values_BT, 0.0)


class CriticAdvantage(Config):
    """An advantage of each token, by a critic that learns beside the policy."""

    baseline: ClassVar[Baseline] = "critic"
    start: Literal["policy", "scorer"] = Field(
        "policy", description="the critic begins as the policy with a new head, or as the reward model in rl.scorer"
    )
    discount: float = Field(1.0, gt=0, le=1, description="of what is one token further away")
    decay: float = Field(0.95, ge=0, le=1, description="lambda: 0 trusts the critic alone, 1 the reward alone")
    clip: float = Field(
        0.2,
        gt=0,
        description="how far a value may leave the rollout's before it is held; binds from its second update on",
    )
    rate: float = Field(1.0, gt=0, description="the critic's learning rate, times that of rl.optimizer")
