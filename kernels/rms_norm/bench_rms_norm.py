"""`python -m kernels.rms_norm.bench_rms_norm`: forward and backward of ours, the plain formula and torch's, at two sizes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.bench_rounds import Arms, report
from kernels.rms_norm import reference, rms_norm

SHAPES = {"M": (16 * 512, 256), "XS": (16 * 256, 128)}  # rows, width
EPS = 1e-6


def setup(rows: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight, and the gradient of the result."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    x, weight, dy = (torch.randn(shape, generator=generator) for shape in ((rows, width), (width,), (rows, width)))
    return x.to(device).requires_grad_(), weight.to(device).requires_grad_(), dy.to(device)


def arms(rows: int, width: int) -> tuple[Arms, list[Tensor], Tensor]:
    """The forward of each arm, what gets gradients, and the gradient to send back."""
    x, weight, dy = setup(rows, width)
    return (
        {
            "ours": lambda: rms_norm(x, weight, EPS),
            "reference": lambda: reference.rms_norm(x, weight, EPS),
            "torch": lambda: F.rms_norm(x, weight.shape, weight, EPS),
        },
        [x, weight],
        dy,
    )


def main(rounds: int = 30) -> None:
    for size, shape in SHAPES.items():
        report(size, *arms(*shape), rounds)


if __name__ == "__main__":
    main()
