"""`python -m kernels.rope.bench_rope`: forward and backward of ours and the plain formula, at two sizes."""

import torch
from torch import Tensor

from kernels.bench_rounds import Arms, report
from kernels.rope import reference, rotate

SHAPES = {"M": (16, 4, 512, 64), "XS": (16, 4, 256, 32)}  # B H T E


def setup(B: int, H: int, T: int, E: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, cos, sin, and the gradient of the result; x and the gradient in the layout that attention has."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(B, T, H, E, generator=generator).to(device).transpose(1, 2) for _ in range(2))
    angles = torch.randn(T, E // 2, generator=generator).to(device)
    return x.requires_grad_(), angles.cos(), angles.sin(), dy


def arms(B: int, H: int, T: int, E: int) -> tuple[Arms, list[Tensor], Tensor]:
    """The forward of each arm, what gets gradients, and the gradient to send back."""
    x, cos, sin, dy = setup(B, H, T, E)
    return {"ours": lambda: rotate(x, cos, sin), "reference": lambda: reference.rotate(x, cos, sin)}, [x], dy


def main(rounds: int = 30) -> None:
    for size, shape in SHAPES.items():
        report(size, *arms(*shape), rounds)


if __name__ == "__main__":
    main()
