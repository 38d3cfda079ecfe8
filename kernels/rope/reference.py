"""Rotary positions as written: Su et al., arXiv:2104.09864, equation 34."""

import torch
from torch import Tensor


def rotate(x_BHTE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each pair (e, e + E/2) of x turned by the angle of its position, in the dtype of x.

    cos and sin broadcast to (B, 1, T, E/2). Computed in fp32, in fp64 where x is fp64. Differs from the paper, which pairs
    (2e, 2e + 1): the halves are the layout of Llama's weights in Hugging Face's format.
    """
    wide = x_BHTE.to(torch.promote_types(x_BHTE.dtype, torch.float32))
    first, second = wide.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x_BHTE.dtype)
