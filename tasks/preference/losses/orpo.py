"""Odds ratio preference optimization (Hong et al. 2024, arXiv:2403.07691, equations 6 and 7): SFT on the chosen answer and
a penalty on the odds of the rejected one; no reference."""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tasks.preference.losses.base import Logps, PreferenceLoss


def log_odds(mean_P: Tensor) -> Tensor:
    """log(p / (1 - p)) of p = exp(log-probability a token). A p that rounds to 1 has the odds of the next number below."""
    mean_P = mean_P.clamp(max=-torch.finfo(mean_P.dtype).eps)
    return mean_P - torch.log(-torch.expm1(mean_P))


class Orpo(PreferenceLoss):
    """loss_P = -mean_chosen - weight log sigmoid(log odds of the chosen answer - log odds of the rejected one)."""

    name: Literal["orpo"] = "orpo"
    needs_reference: ClassVar[bool] = False
    weight: float = Field(
        0.1, gt=0, description="lambda, of the odds ratio beside the cross-entropy of the chosen answer"
    )

    def __call__(self, logps: Logps) -> tuple[Tensor, Tensor]:
        chosen_P, rejected_P = logps.token_means
        ratio_P = log_odds(chosen_P) - log_odds(rejected_P)
        return -chosen_P - self.weight * F.logsigmoid(ratio_P), ratio_P.detach()
