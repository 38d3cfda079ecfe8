"""The clipped surrogate of PPO (Schulman et al. 2017, arXiv:1707.06347, equation 7), a token at a time, as in GRPO."""

from typing import Literal

import torch
from torch import Tensor

from tasks.rl.losses.surrogate import Clipped, clipped_surrogate


class PolicyGradient(Clipped):
    """Differs from PPO's paper: no bonus for entropy; without the advantage `gae` no critic, and all tokens of an answer share
    its advantage. Differs from GRPO's: the mean is over all tokens unless `over` says otherwise, and nothing holds the policy
    to the model it began as unless `kl` does. The ratio is 1 in the first update of a rollout, so clips bind where rl.updates
    or rl.minibatches ask for more."""

    name: Literal["policy_gradient"] = "policy_gradient"

    def __call__(
        self, logp_BT: Tensor, logp_old_BT: Tensor, advantages_BT: Tensor, weights_BT: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        kept_BT = weights_BT > 0
        # before exp, so that a token without weight can neither overflow nor turn a gradient into NaN
        log_ratio_BT = torch.where(kept_BT, logp_BT - logp_old_BT, 0.0)
        advantages_BT = torch.where(kept_BT, advantages_BT, 0.0)
        return clipped_surrogate(log_ratio_BT, advantages_BT, weights_BT, self.clip_low, self.clip_high)
