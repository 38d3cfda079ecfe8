"""Norm and rotation of heads on a GPU: x is read once forward, and x and dy once back.

Bytes an entry in bf16: 4 forward and 6 back, against 8 and 10 as two kernels.
Letters: B batch, T time, H heads, E head width, P programs of the backward.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.rms_norm.triton import PROGRAMS

# Entries of a tile of half rows: 8 a thread of 4 warps, and as many of the other half
TILE = 1024


def norm_rotate(x_BTHE: Tensor, weight_E: Tensor, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
    """What the reference gives, in fp32 inside; backward keeps x, a number a row, and cos and sin.

    The weight's gradient is the sum of P partial sums in a fixed order: the same bits every time.
    """
    B, T, _, E = x_BTHE.shape
    cos_B1TE, sin_B1TE = (table.contiguous().expand(B, 1, T, E // 2) for table in (cos, sin))
    return _NormRotate.apply(x_BTHE, weight_E, cos_B1TE, sin_B1TE, eps).transpose(1, 2)


class _NormRotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTHE: Tensor, weight_E: Tensor, cos_B1TE: Tensor, sin_B1TE: Tensor, eps: float) -> Tensor:
        x_BTHE = x_BTHE.contiguous()
        y_BTHE = torch.empty_like(x_BTHE)
        rstd = torch.empty(x_BTHE.shape[:3], dtype=torch.float32, device=x_BTHE.device)
        tables = _tables(cos_B1TE, sin_B1TE)
        shape, rows, half = _shape(x_BTHE)
        grid = (-(-shape[2] // rows),)
        _norm_rope_forward[grid](
            x_BTHE, weight_E.contiguous(), *tables, y_BTHE, rstd, *shape, eps, ROWS=rows, HALF=half
        )
        ctx.save_for_backward(x_BTHE, weight_E, cos_B1TE, sin_B1TE, rstd)
        return y_BTHE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BTHE: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x_BTHE, weight_E, cos_B1TE, sin_B1TE, rstd = ctx.saved_tensors
        dx_BTHE = torch.empty_like(x_BTHE)
        tables = _tables(cos_B1TE, sin_B1TE)
        shape, rows, half = _shape(x_BTHE)
        P = min(PROGRAMS, -(-shape[2] // rows))
        dweight_PE = torch.empty(P, x_BTHE.shape[3], dtype=torch.float32, device=x_BTHE.device)
        tensors = (dy_BTHE.contiguous(), x_BTHE, weight_E.contiguous(), *tables, rstd, dx_BTHE, dweight_PE)
        _norm_rope_backward[(P,)](*tensors, *shape, P, ROWS=rows, HALF=half)
        return dx_BTHE, dweight_PE.sum(0).to(weight_E.dtype), None, None, None


def _tables(cos_B1TE: Tensor, sin_B1TE: Tensor) -> tuple[Tensor | int, ...]:
    """Both tables, each with its strides of B and T."""
    return cos_B1TE, cos_B1TE.stride(0), cos_B1TE.stride(2), sin_B1TE, sin_B1TE.stride(0), sin_B1TE.stride(2)


def _shape(x_BTHE: Tensor) -> tuple[tuple[int, int, int, int], int, int]:
    """(H, T, rows in all, E / 2), rows of a tile, and its columns, a power of two that holds half a row."""
    B, T, H, E = x_BTHE.shape
    half = 1 << (E // 2 - 1).bit_length()
    return (H, T, B * T * H, E // 2), max(1, TILE // half), half


@triton.jit
def _turns(cos_ptr, cos_B, cos_T, sin_ptr, sin_B, sin_T, row, e, inside, H, T):
    """(cos, sin) of these rows, which are in the order (b, t, h)."""
    b, t = row // (H * T), row // H % T
    cos = tl.load(cos_ptr + b * cos_B + t * cos_T + e, mask=inside, other=0.0).to(tl.float32)
    sin = tl.load(sin_ptr + b * sin_B + t * sin_T + e, mask=inside, other=0.0).to(tl.float32)
    return cos, sin


@triton.jit
def _halves(ptr, row, half, e, inside):
    """Both halves of these rows, in fp32."""
    place = ptr + row * 2 * half + e
    first = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    return first, tl.load(place + half, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _norm_rope_forward(
    x_ptr, weight_E, cos_ptr, cos_B, cos_T, sin_ptr, sin_B, sin_T, y_ptr, rstd_ptr, H, T, rows, half, eps,
    ROWS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    e = tl.arange(0, HALF)[None, :]
    inside = (row < rows) & (e < half)
    first, second = _halves(x_ptr, row, half, e, inside)
    squares = tl.sum(first * first, axis=1) + tl.sum(second * second, axis=1)
    rstd = (1 / tl.sqrt(squares / (2 * half) + eps))[:, None]
    tl.store(rstd_ptr + row, rstd, mask=row < rows)
    weight_first, weight_second = _halves(weight_E, 0, half, e, e < half)
    cos, sin = _turns(cos_ptr, cos_B, cos_T, sin_ptr, sin_B, sin_T, row, e, inside, H, T)
    first, second = first * rstd * weight_first, second * rstd * weight_second
    y = y_ptr + row * 2 * half + e
    tl.store(y, first * cos - second * sin, mask=inside)
    tl.store(y + half, second * cos + first * sin, mask=inside)


@triton.jit
def _norm_rope_backward(
    dy_ptr, x_ptr, weight_E, cos_ptr, cos_B, cos_T, sin_ptr, sin_B, sin_T, rstd_ptr, dx_ptr, dweight_PE, H, T, rows, half, P,
    ROWS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Tiles p, p + P, p + 2 P, ... for program p: dy turned back, then the gradient of the norm."""
    program = tl.program_id(0)
    e = tl.arange(0, HALF)[None, :]
    weight_first, weight_second = _halves(weight_E, 0, half, e, e < half)
    dweight_first, dweight_second = tl.zeros((1, HALF), tl.float32), tl.zeros((1, HALF), tl.float32)
    for step in range(program, tl.cdiv(rows, ROWS), P):
        row = tl.cast(step, tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
        inside = (row < rows) & (e < half)
        cos, sin = _turns(cos_ptr, cos_B, cos_T, sin_ptr, sin_B, sin_T, row, e, inside, H, T)
        dy_first, dy_second = _halves(dy_ptr, row, half, e, inside)
        first, second = dy_first * cos + dy_second * sin, dy_second * cos - dy_first * sin
        rstd = tl.load(rstd_ptr + row, mask=row < rows, other=0.0)
        unit_first, unit_second = _halves(x_ptr, row, half, e, inside)
        unit_first, unit_second = unit_first * rstd, unit_second * rstd
        dweight_first += tl.sum(first * unit_first, axis=0)[None, :]
        dweight_second += tl.sum(second * unit_second, axis=0)[None, :]
        first, second = first * weight_first, second * weight_second
        mean = (tl.sum(first * unit_first, axis=1) + tl.sum(second * unit_second, axis=1))[:, None] / (2 * half)
        dx = dx_ptr + row * 2 * half + e
        tl.store(dx, (first - unit_first * mean) * rstd, mask=inside)
        tl.store(dx + half, (second - unit_second * mean) * rstd, mask=inside)
    dweight = dweight_PE + program * 2 * half + e
    tl.store(dweight, dweight_first, mask=e < half)
    tl.store(dweight + half, dweight_second, mask=e < half)
