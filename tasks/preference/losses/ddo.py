"""Direct discriminative optimization (Zheng et al. 2025, arXiv:2503.01103): the model's ratio to the frozen start model is the
discriminator of a GAN, which tells what is to be learned from what the start model makes."""

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tasks.preference.losses.base import Logps, PreferenceLoss


def logistic(ratio_chosen_P: Tensor, ratio_rejected_P: Tensor, alpha: float, beta: float) -> tuple[Tensor, Tensor]:
    """-log sigmoid(beta ratio) of what is real, and -alpha log(1 - sigmoid(beta ratio)) of what the start model made."""
    return -F.logsigmoid(beta * ratio_chosen_P), -alpha * F.logsigmoid(-beta * ratio_rejected_P)


class Ddo(PreferenceLoss):
    """An answer counts by itself, whatever stands beside it: the chosen ones are real, the rejected ones samples of the start
    model, which are the pairs of `self_play`.

    Differs from the paper: answers to prompts in place of images, and one round of self-play a stage; a second one begins with
    the model of the first; of the start model's samples those that are the demonstration itself are not in the second term,
    since `self_play` makes no pair of them.
    """

    name: Literal["ddo"] = "ddo"
    alpha: float = Field(1.0, gt=0, description="weight of the start model's samples")
    beta: float = Field(
        1.0, gt=0, description="of the log-ratio; 1 makes the discriminator the likelihood ratio itself"
    )

    def __call__(self, logps: Logps) -> tuple[Tensor, Tensor]:
        chosen_P, rejected_P = logps.ratios
        real_P, made_P = logistic(chosen_P, rejected_P, self.alpha, self.beta)
        return real_P + made_P, self.beta * (chosen_P - rejected_P).detach()
