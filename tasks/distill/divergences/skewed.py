"""KL to a mixture of both distributions: skew KL, DistiLLM, Ko et al. 2024 (arXiv:2402.03898), section 3.1."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from tasks.distill.divergences.base import Divergence, WithSlope, mixed


class Skewed(Divergence):
    """forward: KL(teacher || alpha x teacher + (1 - alpha) x student), equation 3; reverse: KL(student || (1 - alpha) x teacher
    + alpha x student). No ratio is above 1 / alpha, which bounds the gradient where one of the two finds a token impossible."""

    name: Literal["skewed"] = "skewed"
    alpha: float = Field(0.1, gt=0, lt=1, description="the share of the distribution that is compared in the mixture")
    direction: Literal["forward", "reverse"] = "forward"

    def nats(self, student_TC: Tensor, teacher_TC: Tensor) -> Tensor:
        made = forward if self.direction == "forward" else reverse
        return WithSlope.apply(student_TC, *made(student_TC.detach(), teacher_TC, self.alpha))


def forward(student_TC: Tensor, teacher_TC: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """(nats_T, their slope_TC by the student's log-probabilities): - (1 - alpha) p q / mixture, of p the student's and q the
    teacher's."""
    mixture_TC = mixed(teacher_TC, student_TC, alpha)
    nats_T = (teacher_TC - mixture_TC).mul_(teacher_TC.exp()).sum(-1)
    return nats_T, mixture_TC.neg_().add_(student_TC).add_(teacher_TC).exp_().mul_(alpha - 1)


def reverse(student_TC: Tensor, teacher_TC: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """(nats_T, their slope_TC by the student's log-probabilities): p (log p - log mixture + 1 - alpha p / mixture)."""
    ratio_TC = student_TC - mixed(student_TC, teacher_TC, alpha)
    student_TC = student_TC.exp()
    nats_T = (student_TC * ratio_TC).sum(-1)
    return nats_T, ratio_TC.exp().mul_(-alpha).add_(ratio_TC).add_(1).mul_(student_TC)
