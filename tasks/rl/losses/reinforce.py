"""The score-function gradient: REINFORCE, Williams 1992 (https://doi.org/10.1007/BF00992696)."""

from typing import Literal

import torch
from torch import Tensor

from tasks.rl.losses.base import PolicyLoss


def score_function(logp_BT: Tensor, advantages_BT: Tensor, weights_BT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """-sum(weight * advantage * logp) over the tokens with a weight; it has no metrics of its own."""
    kept_BT = weights_BT > 0
    terms_BT = torch.where(kept_BT, advantages_BT, 0.0) * torch.where(kept_BT, logp_BT, 0.0)
    return -(weights_BT * terms_BT).sum(), {}


class Reinforce(PolicyLoss):
    """Differs from the paper: the mean over all tokens of a batch, unless `over` says otherwise, instead of an update an
    episode. Exact for the first update of a rollout alone: with more of them (rl.updates, rl.minibatches) it goes
    on as if the policy that learns had sampled, which nothing corrects and nothing bounds."""

    name: Literal["reinforce"] = "reinforce"

    def __call__(
        self, logp_BT: Tensor, logp_old_BT: Tensor, advantages_BT: Tensor, weights_BT: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return score_function(logp_BT, advantages_BT, weights_BT)
