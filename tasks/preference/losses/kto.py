"""Kahneman-Tversky optimization (Ethayarajh et al. 2024, arXiv:2402.01306): each answer is good or bad by
itself."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from tasks.preference.losses.base import Logps, PreferenceLoss


def value_lost(
    ratio_chosen_P: Tensor, ratio_rejected_P: Tensor, point: Tensor | float, beta: float, good: float, bad: float
) -> tuple[Tensor, Tensor]:
    """What each answer lacks of its greatest value: good (1 - sigmoid(beta (ratio - point))) of a chosen one, and
    bad (1 - sigmoid(beta (point - ratio))) of a rejected one, which is the loss lambda_y - v(x, y) of the paper.

    point, z_0: the larger of 0 and the mean of log(model / start model) over the step's prompts with answers to other prompts;
    no gradient goes through it.
    """
    lost_chosen_P = good * (1 - (beta * (ratio_chosen_P - point)).sigmoid())
    lost_rejected_P = bad * (1 - (beta * (point - ratio_rejected_P)).sigmoid())
    return lost_chosen_P, lost_rejected_P


class Kto(PreferenceLoss):
    """Mean over all answers; a pair stands for two of them. Differs from the paper: answers come in pairs, so good and bad ones
    are as many; the other prompt of an answer is the same in every step, so that its reference is computed once as well."""

    name: Literal["kto"] = "kto"
    needs_point: ClassVar[bool] = True
    beta: float = Field(0.1, gt=0, description="how soon a gain or a loss saturates")
    desirable_weight: float = Field(1.0, gt=0, description="lambda_D, of the chosen answers")
    undesirable_weight: float = Field(1.0, gt=0, description="lambda_U, of the rejected ones")

    def __call__(self, logps: Logps) -> tuple[Tensor, Tensor]:
        chosen_P, rejected_P = logps.ratios
        weights = self.desirable_weight, self.undesirable_weight
        lost_chosen_P, lost_rejected_P = value_lost(chosen_P, rejected_P, logps.point, self.beta, *weights)
        return (lost_chosen_P + lost_rejected_P) / 2, self.beta * (chosen_P - rejected_P).detach()
