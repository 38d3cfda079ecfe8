"""The cross-entropy of a verdict on each answer by itself: a score is the log-odds that an answer is good."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from tasks.reward.losses.base import RewardLoss


def cross_entropy(chosen_PM: Tensor, rejected_PM: Tensor) -> Tensor:
    """loss_PM = -(log sigmoid(chosen) + log sigmoid(-rejected)) / 2, the mean over the two answers."""
    return -(F.logsigmoid(chosen_PM) + F.logsigmoid(-rejected_PM)) / 2


class Pointwise(RewardLoss):
    """Logistic regression, which is no paper's: chosen answers are good and rejected ones bad, whatever stands beside them, as
    the pairs of `mined` are by the verifier. Of a pair of which one answer is good, the chosen one is so with the probability
    sigmoid(chosen - rejected), by Bayes' rule."""

    name: Literal["pointwise"] = "pointwise"

    def __call__(self, chosen_PM: Tensor, rejected_PM: Tensor) -> Tensor:
        return cross_entropy(chosen_PM, rejected_PM)
