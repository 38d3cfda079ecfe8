"""RMSNorm as written: Zhang & Sennrich, arXiv:1910.07467, equation 4."""

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype | None = None) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight, the mean over the last dimension, in the dtype of x if none is given.

    Computed in fp32, in fp64 where x is fp64. Differs from the paper: eps, by which a row of zeros stays zero.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight).to(dtype or x.dtype)
