"""Residual sum and RMSNorm on a GPU, tiles of whole rows as in kernels/rms_norm/triton.py.

Bytes an entry with x in fp32 and the rest in bf16: 12 forward (16 as a sum and a norm), 16 back (28 as a norm, the sum of the
stream's two gradients, and a cast of it for what was added).
Letters: R rows (every dimension but the last), D width, P programs of the backward.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.rms_norm.triton import PROGRAMS, check_width, tile


def add_norm(x: Tensor, more: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What the reference gives, in fp32 inside; backward keeps the sum and a number a row.

    The weight's gradient is the sum of P partial sums in a fixed order: the same bits every time. Raises ValueError when a
    row has more entries than a tile.
    """
    check_width(x)
    return _AddNorm.apply(x, more, weight, eps, dtype)


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, more: Tensor, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        D = x.shape[-1]
        x_RD, more_RD = x.reshape(-1, D).contiguous(), more.reshape(-1, D).contiguous()
        R = x_RD.shape[0]
        total_RD = torch.empty_like(x_RD, dtype=torch.promote_types(x.dtype, more.dtype))
        y_RD = torch.empty_like(x_RD, dtype=dtype)
        rstd_R = torch.empty(R, dtype=torch.float32, device=x.device)
        rows, block, warps = tile(D)
        tensors = (x_RD, more_RD, weight.contiguous(), total_RD, y_RD, rstd_R)
        _add_norm_forward[(-(-R // rows),)](*tensors, R, D, eps, ROWS=rows, BLOCK=block, num_warps=warps)
        ctx.save_for_backward(total_RD, weight, rstd_R)
        ctx.dtypes = x.dtype, more.dtype
        return total_RD.view(x.shape), y_RD.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dtotal: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        total_RD, weight, rstd_R = ctx.saved_tensors
        R, D = total_RD.shape
        dtotal_RD, dy_RD = dtotal.reshape(R, D).contiguous(), dy.reshape(R, D).contiguous()
        x_dtype, more_dtype = ctx.dtypes
        dx_RD = torch.empty_like(total_RD, dtype=x_dtype)
        # of one dtype, they are one gradient
        dmore_RD = dx_RD if more_dtype == x_dtype else torch.empty_like(total_RD, dtype=more_dtype)
        rows, block, warps = tile(D)
        P = min(PROGRAMS, -(-R // rows))
        dweight_PD = torch.empty(P, D, dtype=torch.float32, device=total_RD.device)
        tensors = (dtotal_RD, dy_RD, total_RD, weight.contiguous(), rstd_R, dx_RD, dmore_RD, dweight_PD)
        apart = more_dtype != x_dtype
        _add_norm_backward[(P,)](*tensors, R, D, P, APART=apart, ROWS=rows, BLOCK=block, num_warps=warps)
        dweight = dweight_PD.sum(0).to(weight.dtype)
        return dx_RD.view(dy.shape), dmore_RD.view(dy.shape), dweight, None, None


@triton.jit
def _add_norm_forward(
    x_RD, more_RD, weight_D, total_RD, y_RD, rstd_R, R, D, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row[:, None] < R) & (column < D)
    place = row[:, None] * D + column
    x = tl.load(x_RD + place, mask=inside, other=0.0).to(tl.float32)
    more = tl.load(more_RD + place, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_D + column, mask=column < D, other=0.0).to(tl.float32)
    rounded = (x + more).to(total_RD.dtype.element_ty)
    tl.store(total_RD + place, rounded, mask=inside)
    total = rounded.to(tl.float32)
    rstd = 1 / tl.sqrt(tl.sum(total * total, axis=1) / D + eps)
    tl.store(rstd_R + row, rstd, mask=row < R)
    tl.store(y_RD + place, total * rstd[:, None] * weight, mask=inside)


@triton.jit
def _add_norm_backward(
    dtotal_RD, dy_RD, total_RD, weight_D, rstd_R, dx_RD, dmore_RD, dweight_PD, R, D, P,
    APART: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Tiles p, p + P, p + 2 P, ... for program p. APART: dmore is not dx."""
    program = tl.program_id(0)
    column = tl.arange(0, BLOCK)[None, :]
    weight = tl.load(weight_D + column, mask=column < D, other=0.0).to(tl.float32)
    dweight = tl.zeros((1, BLOCK), tl.float32)
    for step in range(program, tl.cdiv(R, ROWS), P):
        row = tl.cast(step, tl.int64) * ROWS + tl.arange(0, ROWS)
        inside = (row[:, None] < R) & (column < D)
        place = row[:, None] * D + column
        dy = tl.load(dy_RD + place, mask=inside, other=0.0).to(tl.float32)
        rstd = tl.load(rstd_R + row, mask=row < R, other=0.0)[:, None]
        unit = tl.load(total_RD + place, mask=inside, other=0.0).to(tl.float32) * rstd
        dunit = dy * weight
        mean = tl.sum(dunit * unit, axis=1)[:, None] / D
        dx = (dunit - unit * mean) * rstd + tl.load(dtotal_RD + place, mask=inside, other=0.0).to(tl.float32)
        tl.store(dx_RD + place, dx, mask=inside)
        if APART:
            tl.store(dmore_RD + place, dx, mask=inside)
        dweight += tl.sum(dy * unit, axis=0)[None, :]
    tl.store(dweight_PD + program * D + column, dweight, mask=column < D)
