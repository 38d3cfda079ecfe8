"""What every divergence compares: two distributions of the next token, softened, over the vocabulary or what is coarser.

T tokens, V vocabulary, C classes that are compared: V, or the teacher's top k tokens and one class of all others.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lm.config import Config
from lm.distilling.top_k import gather_with_rest, reduce_to_top_k
from lm.temperature import Divisor


def over_the_top(student_TV: Tensor, teacher_TV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(student_TC, teacher_TC), C = k + 1, log-probabilities of the k tokens that the teacher finds the likeliest and, last, of
    all others together, from those of all V; k must be below V."""
    top_TK = teacher_TV.topk(k, dim=-1).indices
    return gather_with_rest(student_TV, top_TK), gather_with_rest(teacher_TV, top_TK)


class Divergence(Config):
    """A divergence of distributions at a temperature, times its square, which keeps the gradient's size the same at every
    temperature (Hinton et al. 2015, arXiv:1503.02531, section 2).

    With `gap` or `uncertainty` a token weighs (1 - exp(-d))^gap (H / log C)^uncertainty, of its divergence d and the student's
    entropy H, without a gradient: what is difficult for the student as it is now counts for more, after the idea of dynamic
    contrastive distillation, Rao et al. 2022 (arXiv:2207.01426). Differs from the paper: of tokens, where it weighs pairs of
    images and texts; a focal weight of the divergence itself. Weights are at most 1 and are not made to add up."""

    temperature: Divisor = Field(1.0, description="above 1: more weight on what is unlikely")
    top_k: int = Field(
        0, ge=0, description="so many of the teacher's likeliest tokens are told apart, all others are one; 0: all are"
    )

    gap: float = Field(0.0, ge=0, description="exponent of a token's difficulty by its divergence; 0: all weigh alike")
    uncertainty: float = Field(
        0.0, ge=0, description="exponent of its difficulty by the student's entropy, as a part of the most"
    )

    def __call__(self, student_TV: Tensor, teacher_TV: Tensor) -> Tensor:
        """nats_T from logits."""
        student, teacher = (F.log_softmax(x / self.temperature, dim=-1) for x in (student_TV, teacher_TV))
        if 0 < self.top_k < student.shape[-1]:
            student, teacher = over_the_top(student, teacher, self.top_k)
        return self._scaled(self.nats(student, teacher), student)

    def from_stored(self, student_TV: Tensor, top_TK: Tensor, logp_TC: Tensor) -> Tensor:
        """nats_T from logits and the teacher's likeliest tokens, K of them at least `top_k`, with their log-probabilities at
        the temperature and, last, that of all others."""
        student = F.log_softmax(student_TV / self.temperature, dim=-1)
        student, teacher = gather_with_rest(student, top_TK[:, : self.top_k]), reduce_to_top_k(logp_TC, self.top_k)
        return self._scaled(self.nats(student, teacher), student)

    def _scaled(self, nats_T: Tensor, student_TC: Tensor) -> Tensor:
        if self.gap or self.uncertainty:
            nats_T = nats_T * difficulty(nats_T.detach(), student_TC.detach(), self.gap, self.uncertainty)
        return self.temperature**2 * nats_T

    def nats(self, student_TC: Tensor, teacher_TC: Tensor) -> Tensor:
        """nats_T from log-probabilities."""
        raise NotImplementedError


def difficulty(nats_T: Tensor, student_TC: Tensor, gap: float, uncertainty: float) -> Tensor:
    """weight_T of tokens of these divergences and log-probabilities."""
    part_T = -(student_TC.exp() * student_TC).sum(-1) / math.log(student_TC.shape[-1])
    return (-torch.expm1(-nats_T.clamp(min=0))) ** gap * part_T.clamp(0, 1) ** uncertainty


def mixed(own_TC: Tensor, other_TC: Tensor, share: float) -> Tensor:
    """log(share x own + (1 - share) x other) from the logarithms of both, for what takes no gradient of it."""
    own_TC = own_TC + math.log(share)
    return torch.logaddexp(own_TC, other_TC + math.log1p(-share), out=own_TC)


class WithSlope(torch.autograd.Function):
    """`apply(student_TC, nats_T, slope_TC)`: the nats, whose gradient by student_TC is the slope. Where a formula has it,
    nothing else of the size of the distributions is kept."""

    @staticmethod
    def forward(ctx: Any, student_TC: Tensor, nats_T: Tensor, slope_TC: Tensor) -> Tensor:
        ctx.save_for_backward(slope_TC)
        return nats_T

    @staticmethod
    def backward(ctx: Any, grad_T: Tensor) -> tuple[Tensor, None, None]:
        (slope_TC,) = ctx.saved_tensors
        return grad_T[:, None] * slope_TC, None, None
