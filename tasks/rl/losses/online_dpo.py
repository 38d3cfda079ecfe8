"""Preferences among a policy's own answers: direct alignment from online feedback, Guo et al. 2024 (arXiv:2402.04792)."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.margins import log_sigmoid_of_margin, squared_distance
from tasks.rl.losses.base import Loss, shares


def split_pairs(ratio_R: Tensor, advantages_R: Tensor) -> tuple[Tensor, Tensor]:
    """(ratio_chosen_P, ratio_rejected_P) of R = 2 P answers, of which rows 2p and 2p + 1 are a pair in any order: the one whose
    advantage is above 0 is chosen, and the other one rejected."""
    ratio_P2, first_P = ratio_R.view(-1, 2), advantages_R.view(-1, 2)[:, 0] > 0
    first, second = ratio_P2.unbind(1)
    return torch.where(first_P, first, second), torch.where(first_P, second, first)


class OnlineDpo(Loss):
    """DPO's or IPO's loss (section 3) of the best and the worst answer to each problem, beside the frozen model that the stage
    began with: the mean over the pairs of an update. It needs rl.advantage: {name: best_and_worst}. Metrics are means over
    pairs: margin, by how much the policy holds the better answer likelier than the frozen model does, times beta of dpo;
    pair_accuracy, the share whose margin is above 0.

    Differs from the paper: the pairs are those of rl.advantage; log-probabilities are at the temperature of sampling; an update
    that is not the first of its rollout (rl.updates, rl.minibatches) learns from answers of a policy a few steps old, where
    the paper samples for each; hinge losses (SLiC) are not here."""

    name: Literal["online_dpo"] = "online_dpo"
    together: ClassVar[int] = 2
    objective: Literal["dpo", "ipo"] = Field("dpo", description="the loss of a pair's margin")
    beta: float = Field(
        0.1, gt=0, description="how strongly the start model is kept to; ipo aims at a margin of 1 / (2 beta) nats"
    )

    @property
    def needs_reference(self) -> bool:
        return True

    @property
    def learns_from_zero_advantages(self) -> bool:
        return False

    def weights(self, mask_BT: Tensor, longest: int) -> Tensor:
        """weights_BT of the answers of pairs, which all weigh alike."""
        return shares(mask_BT, "answers", longest)

    def compute(
        self,
        logp_BT: Tensor,
        logp_old_BT: Tensor,
        advantages_BT: Tensor,
        weights_BT: Tensor,
        reference_BT: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Raises ValueError without a reference. Rows 2p and 2p + 1 are a pair, whose weight is that of both."""
        if reference_BT is None:
            raise ValueError("online_dpo needs reference_BT, log-probabilities of the model that the stage began with")
        ratio_R = torch.where(weights_BT > 0, logp_BT - reference_BT, 0.0).sum(1)
        chosen_P, rejected_P = split_pairs(ratio_R, advantages_BT[:, 0])
        scale = self.beta if self.objective == "dpo" else 1.0
        margin_P = (scale * (chosen_P - rejected_P)).detach()
        if self.objective == "dpo":
            loss_P = log_sigmoid_of_margin(chosen_P, rejected_P, self.beta, 0.0)
        else:
            loss_P = squared_distance(chosen_P, rejected_P, self.beta)
        weights_P = weights_BT.sum(1).view(-1, 2).sum(1)
        metrics = {"margin": (weights_P * margin_P).sum(), "pair_accuracy": (weights_P * (margin_P > 0)).sum()}
        return (weights_P * loss_P).sum(), metrics
