"""The step of distillation: the share that some answers and some sequences of text have in its loss."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels.linear_cross_entropy import linear_cross_entropy
from kernels.linear_divergence import linear_divergence, linear_divergence_from
from lm.config import ConfigError
from lm.model import Decoder
from lm.training.batch import Metrics
from lm.training.data.conversations import hidden_at
from tasks.distill.matches.base import Matching


def refuse_caps(*models: Any) -> None:
    """Raise ConfigError for a model, or its config, that caps its logits: divergences are made of logits as they are."""
    if any(getattr(each, "config", each).logit_softcap is not None for each in models):
        raise ConfigError(
            "distill.model: a student or teacher has logit_softcap, which divergences do not know: distil without"
        )


@dataclass(frozen=True)
class ComparedRows:
    """Rows whose predictions at places_K, in the rows laid end to end, are compared, and the tokens that follow there;
    `denominator` predictions are in the whole step. stored: what a teacher said there, as top_KL and logp_KC; None: teachers
    say it themselves."""

    ids_RT: Tensor
    places_K: Tensor
    targets_K: Tensor
    denominator: float
    stored: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class WeightedMatch:
    """A match in a step in which it weighs this much, 0 for nothing."""

    matching: Matching
    weight: float

    @property
    def alone(self) -> bool:
        """Whether it is all of the loss."""
        return self.weight > 0 and self.matching.alone


def shares_of(
    student: Decoder,
    teachers: Sequence[Decoder],
    method: Any,
    labels: float,
    compared: ComparedRows,
    match: WeightedMatch | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, its parts by their names) in nats at these places, over the denominator: (1 - labels) times the mean of the
    divergences from the teachers, and labels times the negative log-likelihood of the tokens that follow. Logits are made
    nowhere else, none where there are no places, and none of teachers where labels is 1. match: what is added of the inside of
    the student and of the first teacher, or is all of it."""
    none = torch.zeros((), device=student.embedding.weight.device)
    alone, watched = match is not None and match.alone, match.matching if match and match.weight else None
    diverges, labelled = labels < 1 and not alone, labels > 0 and not alone
    found: dict[str, Tensor] = {"divergence": none} if diverges else {}
    found |= {"nll": none} if labelled else {}
    found |= {"match": none} if watched else {}
    if not len(compared.places_K):
        return none, found
    refuse_caps(student, *teachers)
    with watched.capture(student) if watched else nullcontext([]) as mine:
        mine_KD = hidden_at(student, compared.ids_RT, compared.places_K)
    for number, teacher in enumerate(teachers if diverges else teachers[:1] if watched else ()):
        seen = watched.capture(teacher) if watched and number == 0 else nullcontext([])
        with torch.no_grad(), seen as theirs:
            theirs_KD = hidden_at(teacher, compared.ids_RT, compared.places_K)
        if theirs and watched and match:
            found["match"] = watched.loss_share(
                mine[0], theirs[0], compared.places_K, compared.denominator, match.weight
            )
        if diverges:
            heads = student.head_weight, theirs_KD, teacher.head_weight
            part = linear_divergence(mine_KD, *heads, method, compared.denominator * len(teachers))
            found["divergence"] = part if found["divergence"] is none else found["divergence"] + part
    if compared.stored is not None and diverges:
        found["divergence"] = linear_divergence_from(
            mine_KD, student.head_weight, compared.stored, method.from_stored, compared.denominator
        )
    total = found.get("divergence", none)
    if labelled:
        found["nll"], _ = linear_cross_entropy(
            mine_KD, student.head_weight, compared.targets_K, denominator=compared.denominator
        )
        total = (1 - labels) * total + labels * found["nll"]
    if match:
        total = total + match.matching.idle + match.weight * found.get("match", none)
    return total, found


def loss_of(
    student: Decoder,
    teachers: Sequence[Decoder],
    method: Any,
    labels: float,
    answers: ComparedRows,
    text: ComparedRows | None,
    match: WeightedMatch | None = None,
) -> tuple[Tensor, Metrics]:
    """The sum of what answers and text have, each its own mean over the step, and each part as a figure."""
    share, parts = shares_of(student, teachers, method, labels, answers, match)
    metrics: Metrics = {f"answer_{name}": part.detach() for name, part in parts.items()}
    if text:
        text_share, parts = shares_of(student, teachers, method, labels, text, match)
        metrics |= {f"text_{name}": part.detach() for name, part in parts.items()}
        share = share + text_share
    return share, metrics
