"""KL(student || teacher): the objective of MiniLLM, Gu et al. 2024 (arXiv:2306.08543)."""

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lm.config import Config


def reverse_kl(student_TV: Tensor, teacher_TV: Tensor, temperature: float) -> Tensor:
    """nats_T: temperature^2 times KL(student || teacher) of each token, both at the temperature.

    The student may leave out what it cannot model, and is punished for what the teacher would not say. Differs from the
    paper: exact for each token, given the tokens before it, instead of policy gradient over whole answers of the
    student.
    """
    student = F.log_softmax(student_TV / temperature, dim=-1)
    teacher = F.log_softmax(teacher_TV / temperature, dim=-1)
    return temperature**2 * (student.exp() * (student - teacher)).sum(-1)


class ReverseKl(Config):
    name: Literal["reverse_kl"] = "reverse_kl"
    temperature: float = Field(1.0, gt=0)

    def __call__(self, student_TV: Tensor, teacher_TV: Tensor) -> Tensor:
        return reverse_kl(student_TV, teacher_TV, self.temperature)
