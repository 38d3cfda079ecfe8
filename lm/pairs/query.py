"""Which pairs are worth a label: the active queries of Wu and Sun 2023, "Making RL with Preference-based Feedback Efficient via
Randomization" (arXiv:2310.14554).

P pairs, R = 2 P answers behind their prompts, D width of the model.
"""

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from lm.config import Config
from lm.model import Decoder
from lm.training.data.conversations import Conversation, collate, hidden_at

ROWS = 16  # answers that are read together; a constant, since how many rows a product has decides its last bits


def expected_disagreement(x_D: Tensor, inverse_DD: Tensor) -> float:
    """E|x . (a - b)| of two linear reward models a and b that are drawn from a normal distribution with this covariance,
    2 / sqrt(pi) times the root of x . inverse . x: how far they are apart on a margin of features x."""
    return 2 / math.sqrt(math.pi) * math.sqrt(max((x_D @ inverse_DD @ x_D).item(), 0.0))


def select_label_queries(x_PD: Tensor, above: float, ridge: float) -> list[bool]:
    """Whether the label of each pair is asked for, one after another in order: where the expected disagreement is above a
    threshold. The covariance begins as the identity over `ridge`, and is the inverse of ridge times the identity and the sum
    of x x^T over the pairs asked before. Labels decide none of it. x_PD: features of one answer less those of the other,
    float64; which is which does not matter."""
    inverse_DD = torch.eye(x_PD.shape[1], dtype=x_PD.dtype) / ridge
    found = []
    for x_D in x_PD:
        found.append(expected_disagreement(x_D, inverse_DD) > above)
        if found[-1]:
            v_D = inverse_DD @ x_D
            inverse_DD = inverse_DD - torch.outer(v_D, v_D) / (1 + x_D @ v_D)
    return found


@torch.no_grad()
def features(model: Decoder, chosen: Sequence[Conversation], rejected: Sequence[Conversation], pad_id: int) -> Tensor:
    """x_PD, float64 in host memory: what the model makes of a pair's first answer at its last token less the same of its second
    answer, scaled so that the longest is of length 1."""
    every, where = [*chosen, *rejected], model.embedding.weight.device
    order = sorted(range(len(every)), key=lambda place: (len(every[place]), place))
    found_RD = torch.zeros(len(every), model.config.width, dtype=torch.float64)
    for first in range(0, len(order), ROWS):
        some = order[first : first + ROWS]
        ids_RN, _ = collate([every[place] for place in some], pad_id)
        last_R = torch.tensor([row * ids_RN.shape[1] + len(every[place]) - 1 for row, place in enumerate(some)])
        found_RD[some] = hidden_at(model, ids_RN.to(where), last_R.to(where)).double().cpu()
    apart_PD = found_RD[: len(chosen)] - found_RD[len(chosen) :]
    return apart_PD / apart_PD.norm(dim=1).amax().clamp(min=torch.finfo(apart_PD.dtype).tiny)


class Query(Config):
    """Pairs whose labels are asked for; others are left out, as if nobody had been asked which answer is better.

    Differs from the paper: reward models are linear in what the frozen start model makes of an answer; the expectation over
    two draws is taken exactly, not by sampling, of a normal posterior that is scaled to a noise of 1; a pair is met once, in
    the order of the sources, and not drawn by policies that explore; what is learned of the labels is the stage's."""

    above: float = Field(
        0.3, gt=0, description="disagreement, in standard deviations of a label's noise, from which on a label is asked"
    )
    ridge: float = Field(1.0, gt=0, description="how sure reward models are before the first label: 1 / their variance")

    def __call__(self, x_PD: Tensor) -> list[bool]:
        return select_label_queries(x_PD, self.above, self.ridge)
