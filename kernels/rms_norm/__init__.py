"""RMSNorm over the last dimension, and its gradients."""

import torch
from torch import Tensor

from kernels.rms_norm import cpu, reference


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype | None = None) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight in the shape of x, computed in fp32 (fp64 where x is); arXiv:1910.07467.

    dtype: of the result, that of x if not given; what was computed is rounded once, as a cast of the result would round it.
    Differentiable once in x and weight. Raises ValueError when weight is not one number a column.
    """
    dtype = dtype or x.dtype
    if weight.shape != x.shape[-1:]:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}: make it {tuple(x.shape[-1:])}, the last dimension of x"
        )
    if x.is_cuda and x.dtype != torch.float64:
        from kernels.rms_norm import triton

        return triton.rms_norm(x, weight, eps, dtype)
    if x.is_cpu and x.dtype == weight.dtype == dtype == torch.float32:
        return cpu.rms_norm(x, weight, eps)
    return reference.rms_norm(x, weight, eps, dtype)
