"""`python -m kernels.newton_schulz.bench_newton_schulz`: five steps on the 42 hidden matrices of a 2M-weight decoder."""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from kernels.newton_schulz import newton_schulz, reference

SHAPES = [(432, 160), (432, 160), (160, 432), (160, 160), (160, 160), (32, 160), (32, 160)] * 6


def setup() -> list[Tensor]:
    """The matrices."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def arms() -> dict[str, Callable[[], object]]:
    """All matrices once, an arm each; the last is the peer that casts to bf16, a whole optimizer step of momentum 0."""
    matrices, weights = setup(), setup()
    for weight, grad in zip(weights, setup(), strict=True):
        weight.requires_grad_().grad = grad
    peer = torch.optim.Muon(weights, lr=1e-3, weight_decay=0.0, momentum=0.0, nesterov=False)
    return {
        "ours": lambda: newton_schulz(matrices, 5),
        "reference": lambda: [reference.newton_schulz(matrix, 5) for matrix in matrices],
        "torch.optim.Muon": peer.step,
    }


def main(rounds: int = 10) -> None:
    every = arms()
    seconds: dict[str, list[float]] = {name: [] for name in every}
    for _ in range(rounds):
        for name, arm in every.items():
            began = time.perf_counter()
            arm()
            seconds[name].append(time.perf_counter() - began)
    for name, values in seconds.items():
        print(f"{name:17} {median(values) * 1e3:8.2f} ms")


if __name__ == "__main__":
    main()
