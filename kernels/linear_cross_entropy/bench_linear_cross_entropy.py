"""`python -m kernels.linear_cross_entropy.bench_linear_cross_entropy`: forward and backward of a head, and what it holds."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.bench_rounds import Arms, report
from kernels.linear_cross_entropy import linear_cross_entropy, reference

SHAPES = [(4096, 256, 32768), (2048, 128, 8192)]


def setup(shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """x_TD, weight_VD, targets_T."""
    T, D, V = shape
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(T, D, generator=generator), torch.randn(V, D, generator=generator) / D**0.5
    targets = torch.randint(0, V, (T,), generator=generator)
    return x.to(device).requires_grad_(), weight.to(device).requires_grad_(), targets.to(device)


def arms(shape: tuple[int, int, int]) -> tuple[Arms, list[Tensor]]:
    """The loss, an arm each, and what gets gradients; torch's operator, which 2.11 has not, gets chunks of 256 tokens, which it
    does not choose by itself but is quicker with. The gradients that ours and torch's operator keep are not among the bytes
    kept."""
    x, weight, targets = setup(shape)
    ones, count = torch.ones(len(x), device=x.device), torch.tensor(float(len(x)), device=x.device)
    every = {
        "ours": lambda: linear_cross_entropy(x, weight, targets)[0],
        "ours, softcap": lambda: linear_cross_entropy(x, weight, targets, softcap=15.0)[0],
        "reference": lambda: reference.linear_cross_entropy(x, weight, targets, ones, count, 0.0, 0.0)[0],
        "torch cross_entropy": lambda: F.cross_entropy(F.linear(x, weight), targets),
    }
    if hasattr(F, "linear_cross_entropy"):
        chunks = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=256, chunking_method=None)
        every["torch linear_cross_entropy"] = lambda: F.linear_cross_entropy(x, weight, targets, options=chunks)
    return every, [x, weight]


def main(rounds: int = 5) -> None:
    for shape in SHAPES:
        every, inputs = arms(shape)
        report("x".join(map(str, shape)), every, inputs, torch.ones((), device=inputs[0].device), rounds)


if __name__ == "__main__":
    main()
