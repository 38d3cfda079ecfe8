"""KL to a mixture of both distributions: skew KL, DistiLLM, Ko et al. 2024 (arXiv:2402.03898), section 3.1."""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from tasks.distill.divergences.base import Divergence


class Skewed(Divergence):
    """forward: KL(teacher || alpha x teacher + (1 - alpha) x student), equation 3; reverse: KL(student || (1 - alpha) x teacher
    + alpha x student). No ratio is above 1 / alpha, which bounds the gradient where one of the two finds a token impossible."""

    name: Literal["skewed"] = "skewed"
    alpha: float = Field(0.1, gt=0, lt=1, description="the share of the distribution that is compared in the mixture")
    direction: Literal["forward", "reverse"] = "forward"

    def nats(self, student_TC: Tensor, teacher_TC: Tensor) -> Tensor:
        own_TC, other_TC = (teacher_TC, student_TC) if self.direction == "forward" else (student_TC, teacher_TC)
        mixture_TC = torch.logaddexp(own_TC + math.log(self.alpha), other_TC + math.log1p(-self.alpha))
        return (own_TC.exp() * (own_TC - mixture_TC)).sum(-1)
