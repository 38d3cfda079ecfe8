"""The step of pretraining: the share that some sequences have in its loss."""

from typing import Any

from torch import Tensor

from lm.model import Decoder
from lm.training.batch import Metrics
from tasks.pretrain.objectives.base import FIRST, LossPosition


def loss_of(
    objective: Any,
    model: Decoder,
    tokens_BN: Tensor,
    bounds: Tensor | None,
    rows: slice,
    denominator: int,
    counted_RT: Tensor | None = None,
    each_RT: Tensor | None = None,
    at: LossPosition = FIRST,
) -> tuple[Tensor, Metrics]:
    """The objective's loss (nats) and metrics of R rows out of B, over the denominator of the whole step.

    bounds: of all documents of the step, in its B x T predictions laid end to end; None: attention is not bounded.
    counted_RT: which predictions of the rows count; None: all. each_RT: gets the cross-entropy of each that does. at: the step.
    """
    B, T = tokens_BN.shape[0], tokens_BN.shape[1] - 1
    some = None if bounds is None else bounds[(bounds >= rows.start * T) & (bounds <= rows.stop * T)] - rows.start * T
    at = at._replace(first=rows.start, rows=B)
    return objective(model, tokens_BN[rows], some, denominator, counted_RT, each_RT, at)
