"""Rotary positions of fp32 tensors on a CPU: two passes over memory and one new tensor, forward and back alike."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def rotate(x_BHTE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """What the reference gives, up to the order of rounding, in the memory layout of x; backward keeps cos and sin alone."""
    # without gradients, the call of autograd would add half to the time of a single row (14 us for 9)
    return _Rotate.apply(x_BHTE, cos, sin) if torch.is_grad_enabled() else _turn(x_BHTE, cos, sin, 1)


def _turn(x_BHTE: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    """x turned by sign times the angle."""
    y_BHTE = x_BHTE * torch.cat((cos, cos), dim=-1)
    (first, second), (y_first, y_second) = x_BHTE.chunk(2, dim=-1), y_BHTE.chunk(2, dim=-1)
    y_first.addcmul_(second, sin, value=-sign)
    y_second.addcmul_(first, sin, value=sign)
    return y_BHTE


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BHTE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        y_BHTE = _turn(x_BHTE, cos, sin, 1)
        return y_BHTE.view_as(y_BHTE)  # a result written in place, as in kernels/rms_norm/cpu.py

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BHTE: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(dy_BHTE, cos, sin, -1), None, None
