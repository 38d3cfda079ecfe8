"""Simple preference optimization (Meng et al. 2024, arXiv:2405.14734, equation 6): no reference, rewards a token."""

from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tasks.preference.losses.base import Logps, PreferenceLoss


def log_sigmoid_beyond_target(mean_chosen_P: Tensor, mean_rejected_P: Tensor, beta: float, gamma: float) -> Tensor:
    """loss_P = -log sigmoid(beta mean_chosen - beta mean_rejected - gamma), the means being log-probabilities a token."""
    return -F.logsigmoid(beta * (mean_chosen_P - mean_rejected_P) - gamma)


class Simpo(PreferenceLoss):
    name: Literal["simpo"] = "simpo"
    needs_reference: ClassVar[bool] = False
    beta: float = Field(2.0, gt=0, description="of the rewards; the paper's are 2 to 2.5")
    gamma: float = Field(1.0, ge=0, description="margin that is aimed at; the paper's are 0.3 to 1.6")

    def __call__(self, logps: Logps) -> tuple[Tensor, Tensor]:
        chosen_P, rejected_P = logps.token_means
        loss_P = log_sigmoid_beyond_target(chosen_P, rejected_P, self.beta, self.gamma)
        return loss_P, self.beta * (chosen_P - rejected_P).detach()
