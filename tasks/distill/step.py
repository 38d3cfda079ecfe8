"""The step of distillation: the share that some answers and some sequences of text have in its loss."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels.linear_divergence import linear_divergence
from lm.model import Decoder
from lm.training.batch import Metrics
from lm.training.data.conversations import hidden_at


@dataclass(frozen=True)
class Compared:
    """Rows whose predictions at places_K, in the rows laid end to end, are compared; `denominator` are in the whole step."""

    ids_RT: Tensor
    places_K: Tensor
    denominator: float


def divergence_of(student: Decoder, teacher: Decoder, method: Any, compared: Compared) -> Tensor:
    """The divergence (nats) at these places, over the denominator; logits are made nowhere else, and none where there are no
    places."""
    if not len(compared.places_K):
        return torch.zeros((), device=student.embedding.weight.device)
    with torch.no_grad():
        theirs_KD = hidden_at(teacher, compared.ids_RT, compared.places_K)
    mine_KD = hidden_at(student, compared.ids_RT, compared.places_K)
    heads = student.head_weight, theirs_KD, teacher.head_weight
    return linear_divergence(mine_KD, *heads, method, compared.denominator)


def loss_of(
    student: Decoder, teacher: Decoder, method: Any, answers: Compared, text: Compared | None
) -> tuple[Tensor, Metrics]:
    """The sum of both divergences, each its own mean over the step, and each as a figure."""
    share = divergence_of(student, teacher, method, answers)
    metrics: Metrics = {"answer_divergence": share.detach()}
    if text:
        text_share = divergence_of(student, teacher, method, text)
        metrics["text_divergence"] = text_share.detach()
        share = share + text_share
    return share, metrics
