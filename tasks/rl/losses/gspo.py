"""Ratios of whole answers: Group Sequence Policy Optimization, Zheng et al. 2025 (arXiv:2507.18071)."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from tasks.rl.losses.surrogate import Clipped, clipped_surrogate


def sequence_log_ratio(log_ratio_BT: Tensor, kept_BT: Tensor) -> Tensor:
    """log_ratio_B1 of each answer: the mean of its tokens', so that exp of it is (p(answer) / p_old(answer)) ** (1 / tokens),
    equation 7. 0 for an answer without a token."""
    return log_ratio_BT.sum(1, keepdim=True) / kept_BT.sum(1, keepdim=True).clamp(min=1)


class Gspo(Clipped):
    """Equation 5: an answer is clipped as a whole, by a ratio that its length does not widen, so the clips are some 500 times
    narrower than those of tokens. Differs from the paper: with `over` the mean may be over something else than answers."""

    name: Literal["gspo"] = "gspo"
    over: Literal["tokens", "answers", "length"] = Field("answers", description="answers: the paper's mean")
    clip_low: float = Field(3e-4, ge=0, lt=1, description="a ratio below 1 - clip_low earns no more")
    clip_high: float = Field(4e-4, ge=0, description="a ratio above 1 + clip_high earns no more")

    def __call__(
        self, logp_BT: Tensor, logp_old_BT: Tensor, advantages_BT: Tensor, weights_BT: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        kept_BT = weights_BT > 0
        ratio_B1 = sequence_log_ratio(torch.where(kept_BT, logp_BT - logp_old_BT, 0.0), kept_BT)
        log_ratio_BT = torch.where(kept_BT, ratio_B1, 0.0)
        advantages_BT = torch.where(kept_BT, advantages_BT, 0.0)
        return clipped_surrogate(log_ratio_BT, advantages_BT, weights_BT, self.clip_low, self.clip_high)
