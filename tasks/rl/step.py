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
    reference_RT: Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """The loss and metrics that a method of losses/ makes of R answers.

    places_K: of the predictions that count, in the rows laid end to end. old_RT (nats): log-probabilities when they were
    sampled at the temperature. reference_RT: those of the model that the policy is held to, at the same temperature, if it is
    held to one.
    """
    logps_RT = token_logps(model, ids_RN, places_K, temperature)
    found, metrics = loss(logps_RT, old_RT, advantages_R, weights_RT)
    return loss.held(found, metrics, logps_RT, reference_RT, weights_RT)
