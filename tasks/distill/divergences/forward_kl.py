"""KL(teacher || student) of softened distributions: Hinton et al. 2015 (arXiv:1503.02531)."""

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lm.config import Config


def forward_kl(student_TV: Tensor, teacher_TV: Tensor, temperature: float) -> Tensor:
    """nats_T: temperature^2 times KL(teacher || student) of each token, both at the temperature.

    The square keeps the gradient's size the same at every temperature (section 2). The student must cover all that the
    teacher might say.
    """
    student = F.log_softmax(student_TV / temperature, dim=-1)
    teacher = F.log_softmax(teacher_TV / temperature, dim=-1)
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(-1)


class ForwardKl(Config):
    name: Literal["forward_kl"] = "forward_kl"
    temperature: float = Field(1.0, gt=0, description="above 1: more weight on what the teacher finds unlikely")

    def __call__(self, student_TV: Tensor, teacher_TV: Tensor) -> Tensor:
        return forward_kl(student_TV, teacher_TV, self.temperature)
