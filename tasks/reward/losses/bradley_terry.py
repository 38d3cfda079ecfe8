"""The Bradley-Terry model of preferences, as reward models are trained: Ouyang et al. 2022 (arXiv:2203.02155, equation 1)."""

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tasks.reward.losses.base import RewardLoss


def negative_log_likelihood(chosen_PM: Tensor, rejected_PM: Tensor, margin: float, centre: float) -> Tensor:
    """loss_PM = -log sigmoid(chosen - rejected - margin) + centre (chosen + rejected)^2.

    margin: that of Llama 2 (Touvron et al. 2023, arXiv:2307.09288, equation 2). centre: keeps the scores of a pair around 0,
    which the difference alone leaves anywhere (Eisenstein et al. 2023, arXiv:2312.09244).
    """
    likelihood_PM = F.logsigmoid(chosen_PM - rejected_PM - margin)
    return centre * (chosen_PM + rejected_PM).square() - likelihood_PM


class BradleyTerry(RewardLoss):
    """Loss of a pair by the difference of its scores. Differs from the papers: pairs of one prompt are drawn one by one, where
    Ouyang et al. take all of a prompt together; the margin is one number, where Llama 2's is larger for pairs that annotators
    called clearer, of which files of pairs say nothing."""

    name: Literal["bradley_terry"] = "bradley_terry"
    margin: float = Field(0.0, ge=0, description="by how much the chosen answer is to be ahead; Llama 2's are 0 to 3")
    centre: float = Field(0.0, ge=0, description="weight of the squared sum of both scores; TRL suggests 0.01")

    def __call__(self, chosen_PM: Tensor, rejected_PM: Tensor) -> Tensor:
        return negative_log_likelihood(chosen_PM, rejected_PM, self.margin, self.centre)
