"""`python -m kernels.swiglu.bench_swiglu`: forward and backward of ours and the plain formula; on a CPU they are one."""

import torch
from torch import Tensor

from kernels.bench_rounds import Arms, report
from kernels.swiglu import reference, swiglu

SHAPES = {"M": (16 * 512, 704), "XS": (16 * 256, 344)}  # rows, width


def setup(rows: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """gate, up, and the gradient of the result."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    gate, up, dy = (torch.randn(rows, width, generator=generator).to(device) for _ in range(3))
    return gate.requires_grad_(), up.requires_grad_(), dy


def arms(rows: int, width: int) -> tuple[Arms, list[Tensor], Tensor]:
    """The forward of each arm, what gets gradients, and the gradient to send back."""
    gate, up, dy = setup(rows, width)
    return {"ours": lambda: swiglu(gate, up), "reference": lambda: reference.swiglu(gate, up)}, [gate, up], dy


def main(rounds: int = 30) -> None:
    for size, shape in SHAPES.items():
        report(size, *arms(*shape), rounds)


if __name__ == "__main__":
    main()
