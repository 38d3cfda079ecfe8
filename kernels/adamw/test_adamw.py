"""The multi-tensor update against the plain formula, and small cases worked by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.adamw import adamw_
from kernels.adamw.reference import adamw

SETTINGS: dict[str, Any] = {"lr": 0.01, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
# Rounding of a few fp32 operations, 6e-8 each.
RTOL = 1e-6


def inputs(shapes: list[tuple[int, ...]]) -> tuple[list[Tensor], ...]:
    generator = torch.Generator().manual_seed(0)
    weights, grads, means = ([torch.randn(shape, generator=generator) for shape in shapes] for _ in range(3))
    return weights, grads, means, [mean.square() for mean in means]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_equals_the_reference_for_every_shape_and_step(weight_decay: float) -> None:
    settings: dict[str, Any] = {**SETTINGS, "weight_decay": weight_decay}
    tensors = inputs([(64, 64), (5, 123), (1,), (3, 1, 2)])
    steps = [1, 2, 10, 10_000]
    expected = [adamw(*parts, **settings) for parts in zip(*tensors, steps, strict=True)]
    weights, grads, means, squares = tensors
    adamw_(weights, grads, means, squares, steps, **settings)
    for got, wanted in zip(zip(weights, means, squares, strict=True), expected, strict=True):
        for mine, theirs in zip(got, wanted, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=RTOL, atol=1e-7)


def test_first_step_moves_by_the_learning_rate() -> None:
    # Step 1: mean / (1 - beta1) = grad and square / (1 - beta2) = grad^2, so each weight moves by lr * sign(grad).
    weight, grad = torch.tensor([1.0, -2.0]), torch.tensor([0.5, -3.0])
    adamw_([weight], [grad], [torch.zeros(2)], [torch.zeros(2)], [1], **{**SETTINGS, "weight_decay": 0.0})
    torch.testing.assert_close(weight, torch.tensor([0.99, -1.99]), rtol=RTOL, atol=0)


def test_decay_is_decoupled_from_the_gradient() -> None:
    weight = torch.tensor([2.0])
    adamw_([weight], [torch.zeros(1)], [torch.zeros(1)], [torch.zeros(1)], [1], **SETTINGS)
    torch.testing.assert_close(weight, torch.tensor([2.0 * (1 - 0.01 * 0.1)]), rtol=RTOL, atol=0)


def test_no_tensors_is_no_work() -> None:
    adamw_([], [], [], [], [], **SETTINGS)
