"""Rotary positions, and their gradient."""

import torch
from torch import Tensor

from kernels.rope import cpu, reference


def rotate(x_BHTE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each pair (e, e + E/2) of x turned by its position's angle, in the dtype of x; arXiv:2104.09864, with Llama's pairs.

    cos and sin have one shape, which broadcasts to (B, 1, T, E/2). B batch, H heads, T time, E head width. Computed in fp32
    (fp64 where x is). Differentiable once in x, by the opposite angle; not in cos and sin. Raises ValueError for an odd E
    and for tables of another width.
    """
    E = x_BHTE.shape[-1]
    if E % 2 or cos.shape != sin.shape or cos.shape[-1] != E // 2:
        raise ValueError(
            f"x has head width {E}, cos {tuple(cos.shape)} and sin {tuple(sin.shape)}: the width must be even, and cos and "
            f"sin must end in half of it"
        )
    if x_BHTE.is_cuda and x_BHTE.dtype != torch.float64:
        from kernels.rope import triton

        return triton.rotate(x_BHTE, cos, sin)
    if x_BHTE.is_cpu and x_BHTE.dtype == cos.dtype == torch.float32:
        return cpu.rotate(x_BHTE, cos, sin)
    return reference.rotate(x_BHTE, cos, sin)
