"""The step of distillation: the share that some answers and some sequences of text have in its loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels.linear_cross_entropy import linear_cross_entropy
from kernels.linear_divergence import linear_divergence, linear_divergence_from
from lm.model import Decoder
from lm.training.batch import Metrics
from lm.training.data.conversations import hidden_at


@dataclass(frozen=True)
class Compared:
    """Rows whose predictions at places_K, in the rows laid end to end, are compared, and the tokens that follow there;
    `denominator` predictions are in the whole step. stored: what a teacher said there, as top_KL and logp_KC; None: teachers
    say it themselves."""

    ids_RT: Tensor
    places_K: Tensor
    targets_K: Tensor
    denominator: float
    stored: tuple[Tensor, Tensor] | None = None


def shares_of(
    student: Decoder, teachers: Sequence[Decoder], method: Any, labels: float, compared: Compared
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, its parts by their names) in nats at these places, over the denominator: (1 - labels) times the mean of the
    divergences from the teachers, and labels times the negative log-likelihood of the tokens that follow. Logits are made
    nowhere else, none where there are no places, and none of teachers where labels is 1."""
    none = torch.zeros((), device=student.embedding.weight.device)
    found: dict[str, Tensor] = {"divergence": none} if labels < 1 else {}
    found |= {"nll": none} if labels else {}
    if not len(compared.places_K):
        return none, found
    mine_KD = hidden_at(student, compared.ids_RT, compared.places_K)
    for teacher in teachers if labels < 1 else ():
        with torch.no_grad():
            theirs_KD = hidden_at(teacher, compared.ids_RT, compared.places_K)
        heads = student.head_weight, theirs_KD, teacher.head_weight
        part = linear_divergence(mine_KD, *heads, method, compared.denominator * len(teachers))
        found["divergence"] = part if found["divergence"] is none else found["divergence"] + part
    if compared.stored is not None and labels < 1:
        made = linear_divergence_from(
            mine_KD, student.head_weight, compared.stored, method.from_stored, compared.denominator
        )
        found["divergence"] = made
    if not labels:
        return found["divergence"], found
    found["nll"], _ = linear_cross_entropy(
        mine_KD, student.head_weight, compared.targets_K, denominator=compared.denominator
    )
    return (1 - labels) * found.get("divergence", none) + labels * found["nll"], found


def loss_of(
    student: Decoder, teachers: Sequence[Decoder], method: Any, labels: float, answers: Compared, text: Compared | None
) -> tuple[Tensor, Metrics]:
    """The sum of what answers and text have, each its own mean over the step, and each part as a figure."""
    share, parts = shares_of(student, teachers, method, labels, answers)
    metrics: Metrics = {f"answer_{name}": part.detach() for name, part in parts.items()}
    if text:
        text_share, parts = shares_of(student, teachers, method, labels, text)
        metrics |= {f"text_{name}": part.detach() for name, part in parts.items()}
        share = share + text_share
    return share, metrics
