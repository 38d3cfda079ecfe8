"""Rank responses to align with human feedback (Yuan et al. 2023, arXiv:2304.05302), by which rewrites of programs are learned
from unit tests, too; no reference."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from tasks.preference.losses.base import Logps, PreferenceLoss


def ranked(mean_chosen_P: Tensor, mean_rejected_P: Tensor) -> Tensor:
    """rank_P = max(0, mean_rejected - mean_chosen), the means being log-probabilities a token: nothing where the order is
    right."""
    return (mean_rejected_P - mean_chosen_P).clamp(min=0)


class Rrhf(PreferenceLoss):
    """loss_P = rank_weight rank_P - log-probability of the whole chosen answer.

    Differs from the paper: a pair at a time, where it ranks all candidates of a prompt and learns the best of them once;
    `mined` makes several pairs of a problem, in each of which the chosen answer is one that the verifier accepts.
    """

    name: Literal["rrhf"] = "rrhf"
    needs_reference: ClassVar[bool] = False
    rank_weight: float = Field(1.0, gt=0, description="of the ranking beside the cross-entropy of the chosen answer")

    def __call__(self, logps: Logps) -> tuple[Tensor, Tensor]:
        chosen_P, rejected_P = logps.token_means
        loss_P = self.rank_weight * ranked(chosen_P, rejected_P) - logps.chosen_P
        return loss_P, (chosen_P - rejected_P).detach()
