"""The step of supervised fine-tuning: the share that some conversations have in its loss."""

from typing import Any

import torch
from torch import Tensor

from lm.model import Decoder
from lm.training.batch import Metrics
from lm.training.data.conversations import hidden_at
from tasks.sft.losses.base import TokenPredictions


def loss_of(
    loss: Any,
    model: Decoder,
    inputs_RT: Tensor,
    targets_RT: Tensor,
    places_K: Tensor,
    owners_K: Tensor,
    conversations: int,
    total: Tensor | float,
    weights_K: Tensor | None = None,
    bounds: Tensor | None = None,
    noise_RTD: Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """The loss (nats) and metrics that a method of losses/ makes of R rows: of the K predictions at these places of the rows
    laid end to end, where alone the head makes logits.

    owners_K: the number of each one's conversation in the step, which has so many. total: the sum of the step's weights.
    bounds: of the conversations in the rows; None: a row is one. noise_RTD: added to embeddings.
    """
    x_KD = hidden_at(model, inputs_RT, places_K, bounds, noise_RTD)
    targets_K = targets_RT.flatten()[places_K]
    softcap = model.config.logit_softcap or 0.0
    return loss(
        TokenPredictions(x_KD, model.head_weight, targets_K, weights_K, owners_K, conversations, total, softcap)
    )


def bounds_within(bounds: Tensor | None, rows: slice, length: int) -> Tensor | None:
    """Bounds of some rows of so many predictions, counted from the first of them."""
    if bounds is None:
        return None
    begin, end = torch.searchsorted(bounds, torch.tensor([rows.start * length, rows.stop * length]))
    return bounds[begin : end + 1] - rows.start * length
