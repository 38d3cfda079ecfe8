"""`python -m kernels.adamw.bench_adamw`: the update of ours, the plain formula and torch's, on a 2M-weight decoder's shapes."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from kernels.adamw import adamw_, reference

SHAPES = [
    (2048, 160),
    *[(432, 160), (432, 160), (160, 432), (160, 160), (160, 160), (32, 160), (32, 160)] * 6,
    *[(160,)] * 13,
]
SETTINGS: dict[str, Any] = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}


def setup() -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """weights, grads, means, squares."""
    generator = torch.Generator().manual_seed(0)
    weights, grads = ([torch.randn(shape, generator=generator) for shape in SHAPES] for _ in range(2))
    return weights, grads, [torch.zeros_like(w) for w in weights], [torch.zeros_like(w) for w in weights]


def arms() -> dict[str, Callable[[], object]]:
    """One update of every weight, an arm each; an arm keeps its own weights."""
    ours, plain, (weights, grads, _, _) = setup(), setup(), setup()
    for weight, grad in zip(weights, grads, strict=True):
        weight.requires_grad_().grad = grad
    options: dict[str, Any] = {"lr": SETTINGS["lr"], "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    foreach = torch.optim.AdamW(weights, foreach=True, **options)
    fused = torch.optim.AdamW(weights, fused=True, **options)
    return {
        "ours": lambda: adamw_(*ours, [10] * len(SHAPES), **SETTINGS),
        "reference": lambda: [reference.adamw(*parts, 10, **SETTINGS) for parts in zip(*plain, strict=True)],
        "torch foreach": foreach.step,
        "torch fused": fused.step,
    }


def main(rounds: int = 20) -> None:
    every = arms()
    seconds: dict[str, list[float]] = {name: [] for name in every}
    for _ in range(rounds):
        for name, arm in every.items():
            began = time.perf_counter()
            arm()
            seconds[name].append(time.perf_counter() - began)
    for name, values in seconds.items():
        print(f"{name:15} {median(values) * 1e3:8.2f} ms")


if __name__ == "__main__":
    main()
