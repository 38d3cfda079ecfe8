"""The score-function gradient: REINFORCE, Williams 1992 (https://doi.org/10.1007/BF00992696)."""

from typing import Literal

import torch
from torch import Tensor

from lm.config import Config


def score_function(
    logp_T: Tensor, advantages_T: Tensor, mask_T: Tensor, denominator: Tensor | float
) -> tuple[Tensor, dict[str, Tensor]]:
    """-sum(advantage * logp) / denominator over the tokens in the mask; it has no figures of its own.

    Exact only for tokens that the learning policy sampled: nothing corrects for an older one.
    """
    kept_T = mask_T > 0
    terms_T = torch.where(kept_T, advantages_T, 0.0) * torch.where(kept_T, logp_T, 0.0)
    return -terms_T.sum() / denominator, {}


class Reinforce(Config):
    name: Literal["reinforce"] = "reinforce"

    def __call__(
        self, logp_T: Tensor, logp_old_T: Tensor, advantages_T: Tensor, mask_T: Tensor, denominator: Tensor | float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return score_function(logp_T, advantages_T, mask_T, denominator)
