"""The generalized Jensen-Shannon divergence: GKD, Agarwal et al. 2024 (arXiv:2306.13649), equation 1."""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from tasks.distill.divergences.base import Divergence


class Jsd(Divergence):
    """beta x KL(teacher || mixture) + (1 - beta) x KL(student || mixture), of the mixture beta x teacher + (1 - beta) x
    student: bounded; over beta it tends to KL(teacher || student) at 0, over 1 - beta to KL(student || teacher) at 1."""

    name: Literal["jsd"] = "jsd"
    beta: float = Field(0.5, gt=0, lt=1, description="the teacher's share of the mixture")

    def nats(self, student_TC: Tensor, teacher_TC: Tensor) -> Tensor:
        mixture_TC = torch.logaddexp(teacher_TC + math.log(self.beta), student_TC + math.log1p(-self.beta))
        of_teacher_T = (teacher_TC.exp() * (teacher_TC - mixture_TC)).sum(-1)
        of_student_T = (student_TC.exp() * (student_TC - mixture_TC)).sum(-1)
        return self.beta * of_teacher_T + (1 - self.beta) * of_student_T
