"""KL(student || teacher): the objective of MiniLLM, Gu et al. 2024 (arXiv:2306.08543)."""

from typing import Literal

from torch import Tensor

from tasks.distill.divergences.base import Divergence


class ReverseKl(Divergence):
    """The student may leave out what it cannot model, and is punished for what the teacher would not say. Differs from the
    paper: exact for each token, given the tokens before it, instead of policy gradient over whole answers of the student."""

    name: Literal["reverse_kl"] = "reverse_kl"

    def nats(self, student_TC: Tensor, teacher_TC: Tensor) -> Tensor:
        return (student_TC.exp() * (student_TC - teacher_TC)).sum(-1)
