"""Ratios of n-grams of tokens: macro actions, MA-RLHF, Chai et al. 2024 (arXiv:2410.02743)."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from tasks.rl.losses.surrogate import Clipped, clipped_surrogate


def macro_sums(values_BT: Tensor, kept_BT: Tensor, n: int) -> Tensor:
    """sums_BT of the values of each n tokens of an answer, counted from its first: the first macro action's stands in column 0;
    the last of an answer may be shorter. values must be 0 where no token is kept."""
    number_BT = (kept_BT.cumsum(1) - 1).clamp(min=0) // n
    return torch.zeros_like(values_BT).scatter_add(1, number_BT, values_BT)


class MacroAction(Clipped):
    """Section 3.2 with its n-gram termination: the probability of a macro action is the product of its tokens', and PPO's ratio
    and clip are of that. A macro action has the weight of one of its tokens, so that the gradient at the policy that sampled
    is the one that tokens give; n = 1 is policy_gradient.

    A macro action's advantage is the mean of its tokens'.

    Differs from the paper: a critic (`gae`) tells values of tokens, not of macro actions, so rewards reach no further back by
    them. In the authors' code each token's own ratio is clipped, with its macro action's advantage, which without a critic
    would be policy_gradient."""

    name: Literal["macro_action"] = "macro_action"
    n: int = Field(5, gt=0, description="tokens of a macro action")

    def __call__(
        self, logp_BT: Tensor, logp_old_BT: Tensor, advantages_BT: Tensor, weights_BT: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        kept_BT = weights_BT > 0
        log_ratio_BM = macro_sums(torch.where(kept_BT, logp_BT - logp_old_BT, 0.0), kept_BT, self.n)
        tokens_BM = macro_sums(kept_BT.to(weights_BT.dtype), kept_BT, self.n)
        weights_BM = macro_sums(weights_BT, kept_BT, self.n) / tokens_BM.clamp(min=1)
        advantages_BM = macro_sums(torch.where(kept_BT, advantages_BT, 0.0), kept_BT, self.n) / tokens_BM.clamp(min=1)
        return clipped_surrogate(log_ratio_BM, advantages_BM, weights_BM, self.clip_low, self.clip_high)
