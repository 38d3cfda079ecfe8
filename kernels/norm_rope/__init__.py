"""RMSNorm of each head and its rotary position, and their gradients: what queries and keys go through with QK-norm."""

import torch
from torch import Tensor

from kernels.rms_norm import rms_norm
from kernels.rope import rotate


def norm_rotate(x_BTHE: Tensor, weight_E: Tensor, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
    """y_BHTE, in the memory layout and dtype of x: rms_norm over the head width E, then kernels.rope.rotate.

    cos and sin: as rotate takes them, of one shape that broadcasts to (B, 1, T, E/2). On a GPU one kernel each way, with the
    normed numbers in fp32 until they are turned; elsewhere one after the other. Differentiable once in x and weight. Raises
    ValueError for a weight, a head width or tables that do not fit.
    """
    E = x_BTHE.shape[-1]
    fits = weight_E.shape == (E,) and E % 2 == 0 and cos.shape == sin.shape and cos.shape[-1] == E // 2
    if x_BTHE.is_cuda and x_BTHE.dtype != torch.float64 and fits:
        from kernels.norm_rope import triton

        return triton.norm_rotate(x_BTHE, weight_E, cos, sin, eps)
    return rotate(rms_norm(x_BTHE, weight_E, eps).transpose(1, 2), cos, sin)
