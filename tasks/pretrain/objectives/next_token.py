"""Predict the next token: the cross-entropy of every token given those before it.

Letters: B batch, T predictions a sequence.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor

from kernels.linear_cross_entropy import IGNORED, linear_cross_entropy
from lm.model import Decoder
from lm.training.batch import Metrics
from tasks.pretrain.objectives.base import FIRST, LossPosition, Objective


class NextToken(Objective):
    name: Literal["next_token"] = "next_token"
    z_loss: float = Field(
        0.0, ge=0, description="times the squared log-partition, arXiv:2204.02311, section 5; PaLM has 1e-4"
    )

    def __call__(
        self,
        model: Decoder,
        tokens_BN: Tensor,
        bounds: Tensor | None,
        denominator: int,
        counted_BT: Tensor | None = None,
        each_BT: Tensor | None = None,
        at: LossPosition = FIRST,
    ) -> tuple[Tensor, Metrics]:
        """The sum over all B*T predictions of the sequences, which have N = T + 1 tokens, divided by `denominator`, in nats;
        the metrics with z_loss are the same of its two terms. bounds: of the documents that attention stays within.
        counted_BT: which predictions are in the sum; None: all. each_BT: gets the cross-entropy of each that is."""
        x_BTD = model.hidden(tokens_BN[:, :-1], bounds=bounds)
        targets_BT = tokens_BN[:, 1:]
        if counted_BT is not None:
            targets_BT = targets_BT.where(counted_BT, IGNORED)
        loss, cross_entropy = linear_cross_entropy(
            x_BTD.flatten(0, 1),
            model.head_weight,
            targets_BT.flatten(),
            denominator=denominator,
            softcap=model.config.logit_softcap or 0.0,
            z_loss=self.z_loss,
            each_T=None if each_BT is None else each_BT.view(-1),
        )
        if not self.z_loss:
            return loss, {}
        squares = (loss.detach() - cross_entropy) / self.z_loss
        return loss, {"cross_entropy": cross_entropy, "squared_log_partition": squares}
