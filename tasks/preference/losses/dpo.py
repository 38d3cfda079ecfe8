"""Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290, equation 7)."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from lm.margins import log_sigmoid_of_margin
from tasks.preference.losses.base import Logps, PreferenceLoss


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
