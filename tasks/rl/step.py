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
    advantages_RT: Tensor,
    weights_RT: Tensor,
    reference_RT: Tensor | None = None,
    shown_RT: Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """The loss and metrics that a method of losses/ makes of R answers.

    places_K: of the predictions that count, in the rows laid end to end. old_RT (nats): log-probabilities when they were
    sampled at the temperature. advantages_RT: (R, 1) where all tokens of an answer share one. reference_RT: those of the model
    that the policy is held to, at the same temperature, if it is held to one. shown_RT: weights of the tokens of
    demonstrations, which have none in weights_RT; their negative log-likelihoods (nats) are added to the loss.
    """
    logps_RT = token_logps(model, ids_RN, places_K, temperature)
    found, metrics = loss.compute(logps_RT, old_RT, advantages_RT, weights_RT, reference_RT)
    return (found, metrics) if shown_RT is None else (found - (shown_RT * logps_RT).sum(), metrics)
