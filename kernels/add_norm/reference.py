"""A residual sum and its RMSNorm as written: arXiv:1512.03385, equation 1, then arXiv:1910.07467, equation 4."""

import torch
from torch import Tensor

from kernels.rms_norm import reference


def add_norm(
    x: Tensor, more: Tensor, weight: Tensor, eps: float, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """(x + more, the norm of that sum); the norm is of the sum as it was rounded."""
    total = x + more
    return total, reference.rms_norm(total, weight, eps, dtype)
