"""Prompts and answers as padded batches, with a mask on what the model is to learn.

Letters: B batch, T time (predictions), so ids are B x (T + 1); K predictions that count, D width.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from kernels.linear_cross_entropy import linear_log_probabilities
from lm.model import Decoder


@dataclass(frozen=True)
class Conversation:
    """Token ids of a prompt and of what follows it, the end token included."""

    prompt: list[int]
    completion: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


def collate(conversations: list[Conversation], pad_id: int) -> tuple[Tensor, Tensor]:
    """ids_BN padded on the right, and mask_BT that is 1 where the predicted token belongs to a completion.

    Attention is causal, so padding on the right reaches no prediction that counts.
    """
    longest = max(map(len, conversations))
    ids = torch.full((len(conversations), longest), pad_id)
    mask = torch.zeros(len(conversations), longest - 1)
    for row, c in enumerate(conversations):
        ids[row, : len(c)] = torch.tensor(c.prompt + c.completion)
        mask[row, len(c.prompt) - 1 : len(c) - 1] = 1
    return ids, mask


def places(mask_BT: Tensor) -> Tensor:
    """places_K of the predictions that count, in rows laid end to end. A mask on a GPU has the host wait for it."""
    return mask_BT.flatten().nonzero()[:, 0]


def hidden_at(model: Decoder, ids_BT: Tensor, places_K: Tensor) -> Tensor:
    """x_KD of which the head makes logits, at these places of the rows alone."""
    return model.hidden(ids_BT).flatten(0, 1)[places_K]


def token_logps(model: Decoder, ids_BN: Tensor, places_K: Tensor, temperature: float = 1.0) -> Tensor:
    """logp_BT (nats) of each token after the first, given those before it, as sampled at the temperature: at these places. 0
    elsewhere, where no logits are made."""
    targets_BT = ids_BN[:, 1:]
    x_KD = hidden_at(model, ids_BN[:, :-1], places_K)
    logp_K = linear_log_probabilities(x_KD, model.head_weight, targets_BT.flatten()[places_K], temperature=temperature)
    return logp_K.new_zeros(targets_BT.numel()).index_copy(0, places_K, logp_K).view_as(targets_BT)


def sample_indices(step: int, batch: int, population: int, seed: int) -> list[int]:
    """The members of a step's batch: every pass over the population is a new shuffle, and each step finds its place alone."""
    picks = []
    for place in range(step * batch, (step + 1) * batch):
        passes, index = divmod(place, population)
        picks.append(int(_shuffle(population, passes, seed)[index]))
    return picks


@lru_cache(maxsize=4)
def _shuffle(population: int, passes: int, seed: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=[seed, passes])).permutation(population)
