"""What every policy loss shares: what it is the mean of, and what holds it to a reference. B answers, T predictions of each."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.config import Config


def shares(mask_BT: Tensor, over: Literal["tokens", "answers", "length"], longest: int) -> Tensor:
    """weights_BT: the share that each token in the mask has in a mean; 0 outside of the mask. A = answers with a token in it.

    tokens: 1 / tokens in the mask, so that long answers weigh more: DAPO (arXiv:2503.14476), equation 8. answers: 1 / (A x the
    answer's own tokens), so that answers weigh alike: GRPO (arXiv:2402.03300), equation 3. length: 1 / (A x longest), which no
    answer's length changes: Dr. GRPO (arXiv:2503.20783), section 3.2.
    """
    own_B1 = mask_BT.sum(1, keepdim=True)
    answers = (own_B1 > 0).sum()
    denominators = {"tokens": own_B1.sum(), "answers": answers * own_B1, "length": answers * longest}
    return mask_BT / denominators[over].clamp(min=1)


def divergence(logp_BT: Tensor, reference_BT: Tensor, weights_BT: Tensor) -> Tensor:
    """Sum of weight * (reference / p - log(reference / p) - 1), nats, over the tokens with a weight: GRPO (arXiv:2402.03300),
    equation 4, which estimates KL(policy || reference) without bias of tokens that the policy drew, and is never negative."""
    log_ratio_BT = torch.where(weights_BT > 0, reference_BT - logp_BT, 0.0)
    return (weights_BT * (log_ratio_BT.exp() - log_ratio_BT - 1)).sum()


class Loss(Config):
    """What an update asks of a loss.

    together: answers that it takes together, which stand beside each other in an update and are in one part of it. holds:
    whether its gradient takes something made of logp for constant, as CISPO's (arXiv:2506.13585) does a clipped ratio; what
    that is, `detach` says."""

    together: ClassVar[int] = 1
    holds: ClassVar[bool] = False

    @property
    def needs_reference(self) -> bool:
        """Whether it compares with the model that the stage began with."""
        raise NotImplementedError

    @property
    def learns_from_zero_advantages(self) -> bool:
        """Whether an answer whose advantage is 0 has a gradient; where none has, an update leaves such answers out."""
        raise NotImplementedError

    def weights(self, mask_BT: Tensor, longest: int) -> Tensor:
        """weights_BT of all that one update learns from."""
        raise NotImplementedError

    def compute(
        self,
        logp_BT: Tensor,
        logp_old_BT: Tensor,
        advantages_BT: Tensor,
        weights_BT: Tensor,
        reference_BT: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, metrics) of some answers, sums over their weights. reference_BT: of the model that the stage began with, where
        the loss needs it; nats at the temperature of sampling, as all of them are."""
        raise NotImplementedError


class PolicyLoss(Loss):
    """A method gives the tokens of an answer whose advantage is 0 no gradient: such answers are left out of an update, unless
    `kl` holds them. Metrics are means over the tokens of the others."""

    over: Literal["tokens", "answers", "length"] = Field(
        "tokens", description="mean over all tokens (DAPO), over answers (GRPO), or per max_new_tokens (Dr. GRPO)"
    )
    kl: float = Field(
        0.0,
        ge=0,
        description="weight of the divergence from the model that the stage begins with; GRPO has 0.04, DAPO and Dr. GRPO 0",
    )

    @property
    def needs_reference(self) -> bool:
        return self.kl > 0

    @property
    def learns_from_zero_advantages(self) -> bool:
        return self.kl > 0

    def weights(self, mask_BT: Tensor, longest: int) -> Tensor:
        return shares(mask_BT, self.over, longest)

    def __call__(
        self, logp_BT: Tensor, logp_old_BT: Tensor, advantages_BT: Tensor, weights_BT: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, metrics) without the divergence from a reference."""
        raise NotImplementedError

    def compute(
        self,
        logp_BT: Tensor,
        logp_old_BT: Tensor,
        advantages_BT: Tensor,
        weights_BT: Tensor,
        reference_BT: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        found, metrics = self(logp_BT, logp_old_BT, advantages_BT, weights_BT)
        return self.add_reference_kl(found, metrics, logp_BT, reference_BT, weights_BT)

    def add_reference_kl(
        self,
        loss: Tensor,
        metrics: dict[str, Tensor],
        logp_BT: Tensor,
        reference_BT: Tensor | None,
        weights_BT: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics with the divergence from the reference, of which logp are nats at the temperature of sampling, too;
        as they were without one."""
        if reference_BT is None:
            return loss, metrics
        kl = divergence(logp_BT, reference_BT, weights_BT)
        return loss + self.kl * kl, {**metrics, "reference_kl": kl.detach()}
