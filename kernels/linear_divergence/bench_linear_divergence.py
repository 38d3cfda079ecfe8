"""`python -m kernels.linear_divergence.bench_linear_divergence`: forward and backward of a student's head and its teacher's."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.bench_rounds import Arms, report
from kernels.linear_divergence import linear_divergence, reference

SHAPES = [(2048, 256, 32768), (2048, 160, 8192)]


def kl(student_TV: Tensor, teacher_TV: Tensor) -> Tensor:
    """KL(teacher || student) of each token."""
    student, teacher = F.log_softmax(student_TV, dim=-1), F.log_softmax(teacher_TV, dim=-1)
    return (teacher.exp() * (teacher - student)).sum(-1)


def arms(shape: tuple[int, int, int]) -> tuple[Arms, list[Tensor]]:
    """The loss, an arm each, and what gets gradients, which ours keeps and does not count among the bytes kept."""
    T, D, V = shape
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    x, theirs = (torch.randn(T, D, generator=generator).to(device) for _ in range(2))
    weight, head = ((torch.randn(V, D, generator=generator) / D**0.5).to(device) for _ in range(2))
    given = x.requires_grad_(), weight.requires_grad_(), theirs, head, kl, float(T)
    every = {"ours": lambda: linear_divergence(*given), "reference": lambda: reference.linear_divergence(*given)}
    return every, [x, weight]


def main(rounds: int = 5) -> None:
    for shape in SHAPES:
        every, inputs = arms(shape)
        report("x".join(map(str, shape)), every, inputs, torch.ones((), device=inputs[0].device), rounds)


if __name__ == "__main__":
    main()
