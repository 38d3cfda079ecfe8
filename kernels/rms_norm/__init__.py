"""RMSNorm over the last dimension, and its gradients."""

import torch
from torch import Tensor

from kernels.rms_norm import cpu, reference


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight in the shape and dtype of x, computed in fp32 (fp64 where x is); arXiv:1910.07467.

    Differentiable once in x and weight. Raises ValueError when weight is not one number a column.
    """
    if weight.shape != x.shape[-1:]:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}: make it {tuple(x.shape[-1:])}, the last dimension of x"
        )
    if x.is_cuda and x.dtype != torch.float64:
        from kernels.rms_norm import triton

        return triton.rms_norm(x, weight, eps)
    if x.is_cpu and x.dtype == weight.dtype == torch.float32:
        return cpu.rms_norm(x, weight, eps)
    return reference.rms_norm(x, weight, eps)
