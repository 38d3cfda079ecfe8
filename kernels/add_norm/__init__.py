"""What a block adds to the residual stream and the RMSNorm of the sum that the next layer reads, and their gradients."""

import torch
from torch import Tensor

from kernels.rms_norm import rms_norm


def add_norm(
    x: Tensor, more: Tensor, weight: Tensor, eps: float, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """(sum, normed): x + more, in the wider dtype of the two, and rms_norm of that sum, in `dtype` (of the sum if not given).

    On a GPU one kernel each way: the sum is not read again for its norm, and its two gradients are added where the first one is
    made. Elsewhere the sum and the norm as they are. Differentiable once in x, more and weight. Raises ValueError when x and
    more differ in shape, or weight is not one number a column.
    """
    if x.shape != more.shape:
        raise ValueError(f"x has shape {tuple(x.shape)} and what is added {tuple(more.shape)}: give both one shape")
    if x.is_cuda and torch.promote_types(x.dtype, more.dtype) != torch.float64 and weight.shape == x.shape[-1:]:
        from kernels.add_norm import triton

        return triton.add_norm(x, more, weight, eps, dtype or torch.promote_types(x.dtype, more.dtype))
    total = x + more
    return total, rms_norm(total, weight, eps, dtype)
