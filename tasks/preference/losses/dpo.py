"""Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290, equation 7)."""

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tasks.preference.losses.base import Logps, PreferenceLoss


def log_sigmoid_of_margin(ratio_chosen_P: Tensor, ratio_rejected_P: Tensor, beta: float, flipped: float) -> Tensor:
    """loss_P = -(1 - flipped) log sigmoid(m) - flipped log sigmoid(-m), m = beta (ratio_chosen - ratio_rejected).

    flipped: the share of pairs whose labels are taken to be the wrong way round, Mitchell's conservative DPO (2023); 0 is DPO.
    """
    margin_P = beta * (ratio_chosen_P - ratio_rejected_P)
    return -(1 - flipped) * F.logsigmoid(margin_P) - flipped * F.logsigmoid(-margin_P)


class Dpo(PreferenceLoss):
    name: Literal["dpo"] = "dpo"
    beta: float = Field(0.1, gt=0, description="how strongly the start model is kept to")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="share of the labels that are wrong: conservative DPO"
    )

    def __call__(self, logps: Logps) -> tuple[Tensor, Tensor]:
        chosen_P, rejected_P = logps.ratios
        loss_P = log_sigmoid_of_margin(chosen_P, rejected_P, self.beta, self.label_smoothing)
        return loss_P, self.beta * (chosen_P - rejected_P).detach()
