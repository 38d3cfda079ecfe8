"""Causal attention that stays within documents.

Letters: B rows, T tokens of a row, H query heads, K key/value heads, E head width. Time stands before heads: that is how a
projection leaves its output, how the fused kernels write theirs, and it makes the B x T tokens one axis that a document is
a slice of, so nothing is copied on the way in or out.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention import cpu


def attention(q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, bounds: Tensor | None) -> Tensor:
    """mixed_BTHE: for each query the mean of the values of its document's tokens up to itself, weighted by the softmax of
    q k / sqrt(E).

    bounds: where documents begin in the B x T tokens, row after row, and B x T at the end: int32 or int64, on the CPU, each
    row's first token among them (the cumulative lengths of variable-length kernels). None: each row is one document.
    H is a multiple of K; query head h reads key/value head h // (H / K). Raises ValueError for heads or bounds that do not fit.
    A value that is not finite may spread into the documents beside its own.
    """
    _check(q_BTHE, k_BTKE, v_BTKE, bounds)
    if not q_BTHE.is_cuda:
        return cpu.attention(q_BTHE, k_BTKE, v_BTKE, bounds)
    if bounds is None:
        if v_BTKE.dtype == torch.float32:
            # no fused kernel of torch 2.11 to 2.13 takes grouped heads in fp32: flash and cuDNN want 16 bits, the
            # memory-efficient one as many heads of each; the plain path would hold H x T x T scores
            k_BTKE, v_BTKE = (cpu.repeated(x, q_BTHE.shape[2]) for x in (k_BTKE, v_BTKE))
        q, k, v = (x.transpose(1, 2) for x in (q_BTHE, k_BTKE, v_BTKE))
        grouped = k.shape[1] < q.shape[1]
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped).transpose(1, 2)
    from kernels.attention import triton

    return triton.attention(q_BTHE, k_BTKE, v_BTKE, bounds)


def _check(q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, bounds: Tensor | None) -> None:
    B, T, H, E = q_BTHE.shape
    K = k_BTKE.shape[2]
    if k_BTKE.shape != (B, T, K, E) or v_BTKE.shape != k_BTKE.shape or not K or H % K:
        shapes = ", ".join(str(tuple(x.shape)) for x in (q_BTHE, k_BTKE, v_BTKE))
        raise ValueError(f"q, k and v must be B T H E, B T K E and B T K E with H a multiple of K, not {shapes}")
    if bounds is None:
        return
    if bounds.ndim != 1 or bounds.dtype not in (torch.int32, torch.int64) or bounds.device.type != "cpu":
        raise ValueError(
            "bounds must be a 1-D int32 or int64 tensor on the CPU: copy it there once a step, not a layer"
        )
    offsets = bounds.tolist()
    if not offsets or offsets[0] != 0 or offsets[-1] != B * T:
        raise ValueError(f"bounds must begin with 0 and end with B * T = {B * T}, not {offsets[:1]} and {offsets[-1:]}")
    if any(end <= start for start, end in pairwise(offsets)):
        raise ValueError("bounds must increase: leave empty documents out")
    crossed = set(range(0, B * T, T)).difference(offsets)
    if crossed:
        raise ValueError(
            f"a document crosses into the row at token {min(crossed)}: add each row's first token to bounds"
        )
