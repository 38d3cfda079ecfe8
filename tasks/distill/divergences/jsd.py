"""The generalized Jensen-Shannon divergence: GKD, Agarwal et al. 2024 (arXiv:2306.13649), equation 1."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from tasks.distill.divergences.base import Divergence, WithSlope, mixed


class Jsd(Divergence):
    """beta x KL(teacher || mixture) + (1 - beta) x KL(student || mixture), of the mixture beta x teacher + (1 - beta) x
    student: bounded; over beta it tends to KL(teacher || student) at 0, over 1 - beta to KL(student || teacher) at 1."""

    name: Literal["jsd"] = "jsd"
    beta: float = Field(0.5, gt=0, lt=1, description="the teacher's share of the mixture")

    def nats(self, student_TC: Tensor, teacher_TC: Tensor) -> Tensor:
        return WithSlope.apply(student_TC, *jsd(student_TC.detach(), teacher_TC, self.beta))


def jsd(student_TC: Tensor, teacher_TC: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """(nats_T, their slope_TC by the student's log-probabilities). By a probability of the student it is (1 - beta) (log p -
    log mixture), since what the mixture moves by adds up to nothing."""
    mixture_TC = mixed(teacher_TC, student_TC, beta)
    nats_T = beta * (teacher_TC - mixture_TC).mul_(teacher_TC.exp()).sum(-1)
    slope_TC = mixture_TC.neg_().add_(student_TC).mul_(student_TC.exp()).mul_(1 - beta)
    return nats_T + slope_TC.sum(-1), slope_TC
