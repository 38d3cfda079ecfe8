"""Attention over kept blocks as a masked softmax: Vaswani et al. 2017, arXiv:1706.03762, equation 1, a token at a time."""

import math

import torch
from torch import Tensor


def block_attention(
    q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, starts_BT: Tensor, kept: Tensor, block: int
) -> Tensor:
    """mixed_BTHE, as kernels.block_attention has it."""
    B, T, H, E = q_BTHE.shape
    mixed_BTHE = torch.zeros_like(q_BTHE)
    for b in range(B):
        for t in range(T):
            start = int(starts_BT[b, t])
            own = (t - start) // block
            for h in range(H):
                of_block = kept[h, own] if kept.ndim == 3 else kept[b, h, start + own * block]
                seen = [s for s in range(start, t + 1) if of_block[(s - start) // block]]
                if seen:
                    keys, values = (x[b, seen, h // (H // x.shape[2])] for x in (k_BTKE, v_BTKE))
                    shares = (keys @ q_BTHE[b, t, h] / math.sqrt(E)).softmax(0)
                    mixed_BTHE[b, t, h] = shares @ values
    return mixed_BTHE
