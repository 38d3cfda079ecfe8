"""The step of reinforcement learning: the share that some answers have in its loss."""

from typing import Any

from torch import Tensor

from lm.model import Decoder
from lm.training.batch import Metrics
from lm.training.data.conversations import token_logps


def loss_of(
    loss: Any,
    temperature: float,
    model: Decoder,
    ids_RN: Tensor,
    places_K: Tensor,
    old_RT: Tensor,
    advantages_R: Tensor,
    weights_RT: Tensor,
) -> tuple[Tensor, Metrics]:
    """The loss and metrics that a method of losses/ makes of R answers.

    places_K: of the predictions that count, in the rows laid end to end. old_RT (nats): log-probabilities when they were
    sampled at the temperature.
    """
    logps_RT = token_logps(model, ids_RN, places_K, temperature)
    return loss(logps_RT, old_RT, advantages_R, weights_RT)
