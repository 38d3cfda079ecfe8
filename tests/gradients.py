"""Whether a function's gradient is that of finite differences, though it may hold some of what it computes constant."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

DETACH = {Tensor.detach, torch.detach}


class Replayed(TorchFunctionMode):
    """`detach` gives what it gave when the same call was made first: constants stay what they were while an input moves."""

    def __init__(self, values: list[Tensor]) -> None:
        super().__init__()
        self._values, self._place = values, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func not in DETACH:
            return made
        if self._place == len(self._values):
            self._values.append(made.clone())
        self._place += 1
        return self._values[self._place - 1]


def equals_finite_differences(call: Callable[[Tensor], Tensor], x: Tensor, holds: bool = False) -> None:
    """Raises GradcheckError for a gradient that is not. holds: what the call detaches stays in the differences what it is at x,
    float64; else the gradient is of all of x."""
    values: list[Tensor] = []

    def held(moved: Tensor) -> Tensor:
        with Replayed(values):
            return call(moved)

    if holds:
        held(x)
        assert values, "nothing is detached"
    torch.autograd.gradcheck(held if holds else call, x.clone().requires_grad_())
