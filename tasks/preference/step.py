"""The step of preference: the share that some pairs have in its loss."""

from typing import Any

from torch import Tensor

from lm.model import Decoder
from lm.training.batch import Metrics
from lm.training.data.conversations import token_logps
from tasks.preference.losses.base import Logps


def loss_of(
    loss: Any,
    model: Decoder,
    ids_RN: Tensor,
    places_K: Tensor,
    tokens_R: Tensor,
    reference_R: Tensor,
    point: Tensor | float,
    pairs: int,
) -> tuple[Tensor, Metrics]:
    """Share of R / 2 pairs in the mean over the step's, of the loss, of its margin, and of pairs whose margin is above 0.

    Rows 2p and 2p + 1 are the chosen and the rejected answer of a pair. places_K: of the answers' tokens, in the rows laid end
    to end, of which a row has tokens_R. reference_R (nats): log-probabilities of the answers under the start model.
    """
    logp_R = token_logps(model, ids_RN, places_K).sum(1)
    loss_P, margin_P = loss(
        Logps(
            logp_R[0::2],
            logp_R[1::2],
            reference_R[0::2],
            reference_R[1::2],
            tokens_R[0::2],
            tokens_R[1::2],
            point,
        )
    )
    return loss_P.sum() / pairs, {"margin": margin_P.sum() / pairs, "accuracy": (margin_P > 0).float().sum() / pairs}
