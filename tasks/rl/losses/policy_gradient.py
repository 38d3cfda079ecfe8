"""The clipped surrogate of PPO (Schulman et al. 2017, arXiv:1707.06347, equation 7), a token at a time, as in GRPO."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from tasks.rl.losses.base import PolicyLoss


def clipped_surrogate(
    logp_BT: Tensor, logp_old_BT: Tensor, advantages_B: Tensor, weights_BT: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """-sum(weight * min(ratio * advantage, clipped ratio * advantage)) over the tokens with a weight.

    ratio = exp(logp - logp_old), clipped to [1 - clip_low, 1 + clip_high]. The metrics are sums of the same weights:
    clip_fraction counts the tokens that lost their gradient, approximate_kl (nats) estimates KL(old || new) without bias.
    """
    kept_BT = weights_BT > 0
    # before exp, so that a token without weight can neither overflow nor turn a gradient into NaN
    log_ratio_BT = torch.where(kept_BT, logp_BT - logp_old_BT, 0.0)
    ratio_BT = log_ratio_BT.exp()
    clipped_BT = ratio_BT.clamp(1 - clip_low, 1 + clip_high)
    advantages_BT = torch.where(kept_BT, advantages_B[:, None], 0.0)
    surrogate_BT = torch.minimum(ratio_BT * advantages_BT, clipped_BT * advantages_BT)
    lost_BT = clipped_BT * advantages_BT < ratio_BT * advantages_BT
    metrics = {
        "clip_fraction": (weights_BT * lost_BT).sum(),
        # E_old[ratio - 1 - log ratio], the "k3" of http://joschu.net/blog/kl-approx.html
        "approximate_kl": (weights_BT * (ratio_BT - 1 - log_ratio_BT).detach()).sum(),
    }
    return -(weights_BT * surrogate_BT).sum(), metrics


class PolicyGradient(PolicyLoss):
    """Differs from PPO's paper: no critic and no bonus for entropy; all tokens of an answer share its advantage. Differs from
    GRPO's: the mean is over all tokens unless `over` says otherwise, and nothing holds the policy to the model it began as:
    the weight of its KL term is 0, as in DAPO and Dr. GRPO. The ratio is 1 in the first update of a rollout, so clips bind
    where rl.updates or rl.minibatches ask for more."""

    name: Literal["policy_gradient"] = "policy_gradient"
    clip_low: float = Field(0.2, ge=0, lt=1, description="a ratio below 1 - clip_low earns no more")
    clip_high: float = Field(
        0.2, ge=0, description="a ratio above 1 + clip_high earns no more; DAPO (arXiv:2503.14476) has 0.28"
    )

    def __call__(
        self, logp_BT: Tensor, logp_old_BT: Tensor, advantages_B: Tensor, weights_BT: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return clipped_surrogate(logp_BT, logp_old_BT, advantages_B, weights_BT, self.clip_low, self.clip_high)
