"""The clipped ratio as a constant weight: CISPO, MiniMax-M1, Chen et al. 2025 (arXiv:2506.13585), equation 4."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tasks.rl.losses.base import PolicyLoss


def weighted_score(
    logp_BT: Tensor, logp_old_BT: Tensor, advantages_BT: Tensor, weights_BT: Tensor, clip_high: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """-sum(weight * held(min(ratio, 1 + clip_high)) * advantage * logp) over the tokens with a weight.

    What is clipped is how much a token counts, not whether it does: every token keeps its gradient. The metrics are sums of the
    same weights: clip_fraction counts the ratios that were clipped, approximate_kl (nats) estimates KL(old || new).
    """
    kept_BT = weights_BT > 0
    log_ratio_BT = torch.where(kept_BT, logp_BT - logp_old_BT, 0.0).detach()
    ratio_BT = log_ratio_BT.exp()
    advantages_BT = torch.where(kept_BT, advantages_BT, 0.0)
    terms_BT = ratio_BT.clamp(max=1 + clip_high) * advantages_BT * torch.where(kept_BT, logp_BT, 0.0)
    metrics = {
        "clip_fraction": (weights_BT * (ratio_BT > 1 + clip_high)).sum(),
        "approximate_kl": (weights_BT * (ratio_BT - 1 - log_ratio_BT)).sum(),
    }
    return -(weights_BT * terms_BT).sum(), metrics


class Cispo(PolicyLoss):
    """Nothing bounds the ratio from below, and the mean is over all tokens, as in the paper's runs. Differs from the paper: it
    names no value of the upper bound, which it tuned; 0.28 is that of DAPO, which it compares with."""

    name: Literal["cispo"] = "cispo"
    holds: ClassVar[bool] = True
    clip_high: float = Field(0.28, ge=0, description="a ratio above 1 + clip_high counts as that")

    def __call__(
        self, logp_BT: Tensor, logp_old_BT: Tensor, advantages_BT: Tensor, weights_BT: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return weighted_score(logp_BT, logp_old_BT, advantages_BT, weights_BT, self.clip_high)
