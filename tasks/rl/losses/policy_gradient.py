"""The clipped surrogate of PPO (Schulman et al. 2017, arXiv:1707.06347, equation 7), a token at a time, as in GRPO."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.config import Config


def clipped_surrogate(
    logp_T: Tensor,
    logp_old_T: Tensor,
    advantages_T: Tensor,
    mask_T: Tensor,
    denominator: Tensor | float,
    clip_low: float,
    clip_high: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """-sum(min(ratio * advantage, clipped ratio * advantage)) / denominator over the tokens in the mask.

    ratio = exp(logp - logp_old), clipped to [1 - clip_low, 1 + clip_high]. The figures are sums over those tokens
    divided by the same: clip_fraction counts those that lost their gradient, approximate_kl (nats) estimates KL(old || new)
    without bias.
    """
    kept_T = mask_T > 0
    # before exp, so that a token outside the mask can neither overflow nor turn a gradient into NaN
    log_ratio_T = torch.where(kept_T, logp_T - logp_old_T, 0.0)
    ratio_T = log_ratio_T.exp()
    clipped_T = ratio_T.clamp(1 - clip_low, 1 + clip_high)
    advantages_T = torch.where(kept_T, advantages_T, 0.0)
    surrogate_T = torch.minimum(ratio_T * advantages_T, clipped_T * advantages_T)
    lost_T = clipped_T * advantages_T < ratio_T * advantages_T
    figures = {
        "clip_fraction": lost_T.sum() / denominator,
        # E_old[ratio - 1 - log ratio], the "k3" of http://joschu.net/blog/kl-approx.html
        "approximate_kl": (ratio_T - 1 - log_ratio_T).detach().sum() / denominator,
    }
    return -surrogate_T.sum() / denominator, figures


class PolicyGradient(Config):
    name: Literal["policy_gradient"] = "policy_gradient"
    clip_low: float = Field(0.2, ge=0, lt=1, description="a ratio below 1 - clip_low earns no more")
    clip_high: float = Field(
        0.2, ge=0, description="a ratio above 1 + clip_high earns no more; DAPO (arXiv:2503.14476) has 0.28"
    )

    def __call__(
        self, logp_T: Tensor, logp_old_T: Tensor, advantages_T: Tensor, mask_T: Tensor, denominator: Tensor | float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return clipped_surrogate(logp_T, logp_old_T, advantages_T, mask_T, denominator, self.clip_low, self.clip_high)
