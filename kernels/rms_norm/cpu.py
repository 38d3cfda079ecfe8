"""RMSNorm of fp32 tensors on a CPU: three passes over memory forward and six back, each pass one call of torch.

Letters: R rows (every dimension but the last), D width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """What the reference gives, up to the order of rounding; backward keeps x and a number a row."""
    # without gradients, the call of autograd would double the time of a single row (20 us for 10)
    return _RMSNorm.apply(x, weight, eps) if torch.is_grad_enabled() else _forward(x, weight, eps)[0]


def _forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(y, 1 / rms of each row)."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    rstd = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (x * rstd).mul_(weight), rstd


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        y, rstd = _forward(x, weight, eps)
        ctx.save_for_backward(x, weight, rstd)
        # a view: torch 2.11 compiles gradients of zero through a result that was written in place
        return y.view_as(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, rstd = ctx.saved_tensors
        D = x.shape[-1]
        x_RD, dy_RD, rstd_R1 = x.reshape(-1, D), dy.reshape(-1, D), rstd.reshape(-1, 1)
        product_RD = dy_RD * x_RD
        dweight_D = torch.mv(product_RD.T, rstd_R1[:, 0])
        # dx = rstd (dy weight - x rstd^2 mean(dy weight x)); the means are one matrix-vector product
        slope_R1 = torch.mv(product_RD, weight)[:, None].mul_(rstd_R1).mul_(rstd_R1).div_(-D)
        dx_RD = torch.mul(dy_RD, weight, out=product_RD).addcmul_(x_RD, slope_R1).mul_(rstd_R1)
        return dx_RD.view(x.shape), dweight_D, None
