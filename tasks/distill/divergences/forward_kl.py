"""KL(teacher || student) of softened distributions: Hinton et al. 2015 (arXiv:1503.02531)."""

from typing import Literal

from torch import Tensor

from tasks.distill.divergences.base import Divergence


class ForwardKl(Divergence):
    """The student must cover all that the teacher might say."""

    name: Literal["forward_kl"] = "forward_kl"

    def nats(self, student_TC: Tensor, teacher_TC: Tensor) -> Tensor:
        return (teacher_TC.exp() * (teacher_TC - student_TC)).sum(-1)
