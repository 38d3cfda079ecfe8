"""Answers count by how likely the start model holds them: a confidence of each sample that is estimated, for data whose labels
are noisy (after Noise-Aware Training, Sarkhel et al. 2024, arXiv:2404.00488)."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from lm.config import Config
from lm.model import Decoder
from lm.training.data.conversations import Conversation, collate, places, token_logps
from lm.transfer import to_device

# Read together at most, padding counted; a constant, since how many rows a product has decides its last bits
POSITIONS = 8192


@torch.no_grad()
def mean_logps(model: Decoder, conversations: Sequence[Conversation], pad_id: int) -> np.ndarray:
    """Mean log-probability (nats) of the tokens of each conversation that count, whatever their weights. The model is left in
    the mode in which it was."""
    training = model.training
    model.eval()
    order = sorted(range(len(conversations)), key=lambda number: (len(conversations[number]), number))
    found_N, first = np.zeros(len(order)), 0
    while first < len(order):
        end = first + 1
        while end < len(order) and (end + 1 - first) * len(conversations[order[end]]) <= POSITIONS:
            end += 1
        ids_RN, mask_RT = collate([conversations[number] for number in order[first:end]], pad_id)
        here_RN, places_K = to_device((ids_RN, places(mask_RT)), model.embedding.weight.device)
        sums_R = token_logps(model, here_RN, places_K).sum(1).double().cpu()
        found_N[order[first:end]] = (sums_R / (mask_RT > 0).sum(1)).numpy()
        first = end
    model.train(training)
    return found_N


class Likelihood(Config):
    """The geometric mean of the probabilities of an answer's tokens, to a power.

    What is the paper's: each sample's confidence is estimated, and a sample of which one is less sure weighs less in the loss.
    Differs from the paper: there the models that gave the weak labels are the ones that are sure or not; here nothing is known
    of them, and the start model is asked once before the first step. The loss is divided by the weights of the step.
    """

    name: Literal["likelihood"] = "likelihood"
    power: float = Field(1.0, gt=0, description="the higher, the less count answers that surprise the start model")

    def __call__(
        self, conversations: Sequence[Conversation], stated_N: np.ndarray, model: Decoder | None, pad_id: int
    ) -> np.ndarray:
        if model is None:
            return np.ones(len(conversations))
        return np.exp(self.power * mean_logps(model, conversations, pad_id))
