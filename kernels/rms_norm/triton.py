"""RMSNorm on a GPU: a tile of whole rows a program, so that x is read once forward, and x and dy once back.

Letters: R rows (every dimension but the last), D width, P programs of the backward.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

# Entries of a tile: 16 a thread of 4 warps; compiled for sm_90 a backward takes at most 146 registers, so that a multiprocessor
# holds 3 or 4 programs (of 32 a thread up to 248, and 2). A row that is longer is a tile of its own, with up to 16 warps.
TILE = 2048
# Of a backward: 8 for each of an H100's 132 multiprocessors, two or three rounds of those that it holds. Fixed, so that every
# GPU adds the weight's gradient in one order.
PROGRAMS = 1056
MAX_WIDTH = 32768


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """What the reference gives, in fp32 inside; backward keeps x and a number a row, and gives the dtype of x.

    The weight's gradient is the sum of P partial sums in a fixed order: the same bits every time. Raises ValueError when a
    row has more than MAX_WIDTH entries.
    """
    check_width(x)
    return _RMSNorm.apply(x, weight, eps, dtype)


def check_width(x: Tensor) -> None:
    """Raises ValueError when a row is no tile."""
    if x.shape[-1] > MAX_WIDTH:
        raise ValueError(f"rows of {x.shape[-1]} entries are longer than a tile of {MAX_WIDTH}: norm a smaller width")


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        D = x.shape[-1]
        x_RD = x.reshape(-1, D).contiguous()
        R = x_RD.shape[0]
        y_RD = torch.empty_like(x_RD, dtype=dtype)
        rstd_R = torch.empty(R, dtype=torch.float32, device=x.device)
        rows, block, warps = tile(D)
        _rms_norm_forward[(-(-R // rows),)](
            x_RD, weight.contiguous(), y_RD, rstd_R, R, D, eps, ROWS=rows, BLOCK=block, num_warps=warps
        )
        ctx.save_for_backward(x_RD, weight, rstd_R)
        return y_RD.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x_RD, weight, rstd_R = ctx.saved_tensors
        R, D = x_RD.shape
        dy_RD = dy.reshape(R, D).contiguous()
        dx_RD = torch.empty_like(x_RD)
        rows, block, warps = tile(D)
        P = min(PROGRAMS, -(-R // rows))
        dweight_PD = torch.empty(P, D, dtype=torch.float32, device=x_RD.device)
        tensors = (dy_RD, x_RD, weight.contiguous(), rstd_R, dx_RD, dweight_PD)
        _rms_norm_backward[(P,)](*tensors, R, D, P, ROWS=rows, BLOCK=block, num_warps=warps)
        return dx_RD.view(dy.shape), dweight_PD.sum(0).to(weight.dtype), None, None


def tile(D: int) -> tuple[int, int, int]:
    """(rows, columns, warps) of a tile, powers of two; the columns hold a whole row."""
    block = 1 << max(D - 1, 0).bit_length()
    return max(1, TILE // block), block, min(16, max(4, block // 512))


@triton.jit
def _rms_norm_forward(x_RD, weight_D, y_RD, rstd_R, R, D, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row[:, None] < R) & (column < D)
    place = row[:, None] * D + column
    x = tl.load(x_RD + place, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_D + column, mask=column < D, other=0.0).to(tl.float32)
    rstd = 1 / tl.sqrt(tl.sum(x * x, axis=1) / D + eps)
    tl.store(rstd_R + row, rstd, mask=row < R)
    tl.store(y_RD + place, x * rstd[:, None] * weight, mask=inside)


@triton.jit
def _rms_norm_backward(
    dy_RD, x_RD, weight_D, rstd_R, dx_RD, dweight_PD, R, D, P, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """Tiles p, p + P, p + 2 P, ... for program p, with the weight's gradient of all of them in one row of dweight_PD."""
    program = tl.program_id(0)
    column = tl.arange(0, BLOCK)[None, :]
    weight = tl.load(weight_D + column, mask=column < D, other=0.0).to(tl.float32)
    dweight = tl.zeros((1, BLOCK), tl.float32)
    for tile in range(program, tl.cdiv(R, ROWS), P):
        row = tl.cast(tile, tl.int64) * ROWS + tl.arange(0, ROWS)
        inside = (row[:, None] < R) & (column < D)
        place = row[:, None] * D + column
        dy = tl.load(dy_RD + place, mask=inside, other=0.0).to(tl.float32)
        rstd = tl.load(rstd_R + row, mask=row < R, other=0.0)[:, None]
        unit = tl.load(x_RD + place, mask=inside, other=0.0).to(tl.float32) * rstd
        dunit = dy * weight
        mean = tl.sum(dunit * unit, axis=1)[:, None] / D
        tl.store(dx_RD + place, (dunit - unit * mean) * rstd, mask=inside)
        dweight += tl.sum(dy * unit, axis=0)[None, :]
    tl.store(dweight_PD + program * D + column, dweight, mask=column < D)
