"""Rotary positions on a GPU: one pass over memory forward and one back, by one kernel.

Letters: B batch, H heads, T time, E head width.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

# Entries of a tile of half rows: 16 a thread of 4 warps.
TILE = 2048


def rotate(x_BHTE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """What the reference gives, in fp32 inside, in the memory layout of x; backward keeps cos and sin alone."""
    return _Rotate.apply(x_BHTE, cos, sin)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BHTE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x_BHTE, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BHTE: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(dy_BHTE, cos, sin, -1), None, None


def _turn(x_BHTE: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    """x turned by sign times the angle."""
    B, H, T, E = x_BHTE.shape
    if x_BHTE.stride(-1) != 1:
        x_BHTE = x_BHTE.contiguous()
    y_BHTE = torch.empty_like(x_BHTE)
    cos_B1TE, sin_B1TE = (table.contiguous().expand(B, 1, T, E // 2) for table in (cos, sin))
    half = 1 << (E // 2 - 1).bit_length()
    rows = max(1, TILE // half)
    _rotate[(-(-B * H * T // rows),)](
        x_BHTE,
        cos_B1TE,
        sin_B1TE,
        y_BHTE,
        H,
        T,
        B * H * T,
        E // 2,
        sign,
        *x_BHTE.stride()[:3],
        *y_BHTE.stride()[:3],
        cos_B1TE.stride(0),
        cos_B1TE.stride(2),
        sin_B1TE.stride(0),
        sin_B1TE.stride(2),
        ROWS=rows,
        HALF=half,
    )
    return y_BHTE


@triton.jit
def _rotate(
    x_BHTE,
    cos_B1TE,
    sin_B1TE,
    y_BHTE,
    H,
    T,
    rows,
    half,
    sign,
    x_B,
    x_H,
    x_T,
    y_B,
    y_H,
    y_T,
    cos_B,
    cos_T,
    sin_B,
    sin_T,
    ROWS: tl.constexpr,
    HALF: tl.constexpr,
):
    """Rows in the order (b, t, h), which is the layout of a projection's output; x_B and its like are strides."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    b, t, h = row // (H * T), row // H % T, row % H
    e = tl.arange(0, HALF)[None, :]
    inside = (row < rows) & (e < half)
    cos = tl.load(cos_B1TE + b * cos_B + t * cos_T + e, mask=inside, other=0.0).to(tl.float32)
    sin = tl.load(sin_B1TE + b * sin_B + t * sin_T + e, mask=inside, other=0.0).to(tl.float32) * sign
    x = x_BHTE + b * x_B + h * x_H + t * x_T + e
    first = tl.load(x, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(x + half, mask=inside, other=0.0).to(tl.float32)
    y = y_BHTE + b * y_B + h * y_H + t * y_T + e
    tl.store(y, first * cos - second * sin, mask=inside)
    tl.store(y + half, second * cos + first * sin, mask=inside)
