"""What losses that clip a ratio share: the clipped surrogate, over tokens or over what they are taken together to.

B answers, M parts of each: tokens, n-grams of them, or as many tokens of which each has the ratio of its answer.
"""

import torch
from pydantic import Field
from torch import Tensor

from tasks.rl.losses.base import PolicyLoss


def clipped_surrogate(
    log_ratio_BM: Tensor, advantages_BM: Tensor, weights_BM: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """-sum(weight * min(ratio * advantage, clipped ratio * advantage)): PPO (arXiv:1707.06347), equation 7.

    ratio = exp(log ratio), clipped to [1 - clip_low, 1 + clip_high]. Log ratio and advantage must be 0 where there is no
    weight. The metrics are sums of the same weights: clip_fraction counts the parts that lost their gradient, approximate_kl
    (nats) estimates KL(old || new) of them without bias.
    """
    ratio_BM = log_ratio_BM.exp()
    clipped_BM = ratio_BM.clamp(1 - clip_low, 1 + clip_high)
    surrogate_BM = torch.minimum(ratio_BM * advantages_BM, clipped_BM * advantages_BM)
    lost_BM = clipped_BM * advantages_BM < ratio_BM * advantages_BM
    metrics = {
        "clip_fraction": (weights_BM * lost_BM).sum(),
        # E_old[ratio - 1 - log ratio], the "k3" of http://joschu.net/blog/kl-approx.html
        "approximate_kl": (weights_BM * (ratio_BM - 1 - log_ratio_BM).detach()).sum(),
    }
    return -(weights_BM * surrogate_BM).sum(), metrics


class Clipped(PolicyLoss):
    """A loss that clips a ratio."""

    clip_low: float = Field(0.2, ge=0, lt=1, description="a ratio below 1 - clip_low earns no more")
    clip_high: float = Field(
        0.2, ge=0, description="a ratio above 1 + clip_high earns no more; DAPO (arXiv:2503.14476) has 0.28"
    )
