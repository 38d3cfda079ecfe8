"""Causal attention that stays within documents.

Letters: B rows, T tokens of a row, H query heads, K key/value heads, E head width. Time stands before heads: that is how a
projection leaves its output, how the fused kernels write theirs, and it makes the B x T tokens one axis that a document is
a slice of, so nothing is copied on the way in or out.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention import cpu
from kernels.attention.documents import Documents, whole_rows
from kernels.attention.operator import within_documents


def attention(q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, documents: Documents | None) -> Tensor:
    """mixed_BTHE: for each query the mean of the values of its document's tokens up to itself, weighted by the softmax of
    q k / sqrt(E).

    documents: of the B x T tokens, made once a pass by kernels.attention.documents; None: each row is one document.
    H is a multiple of K; query head h reads key/value head h // (H / K). Raises ValueError for heads or documents that do not
    fit.
    A value that is not finite may spread into the documents beside its own.
    """
    _check(q_BTHE, k_BTKE, v_BTKE, documents)
    B, T, H, _ = q_BTHE.shape
    if not q_BTHE.is_cuda:
        # heads repeated by hand: torch's enable_gqa leaves the fused CPU path (torch 2.13)
        k_BTKE, v_BTKE = cpu.repeated(k_BTKE, H), cpu.repeated(v_BTKE, H)
    if documents is None:
        if q_BTHE.is_cuda or torch.compiler.is_compiling() or not cpu.in_strips(T):
            if q_BTHE.is_cuda and v_BTKE.dtype == torch.float32:
                # no fused kernel of torch 2.11 to 2.13 takes grouped heads in fp32: flash and cuDNN want 16 bits, the
                # memory-efficient one as many heads of each; the plain path would hold H x T x T scores
                k_BTKE, v_BTKE = (cpu.repeated(x, H) for x in (k_BTKE, v_BTKE))
            q, k, v = (x.transpose(1, 2) for x in (q_BTHE, k_BTKE, v_BTKE))
            grouped = k.shape[1] < q.shape[1]
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped).transpose(1, 2)
        documents = whole_rows(B, T, q_BTHE.device)
    q_NHE, k_NKE, v_NKE = (x.flatten(0, 1) for x in (q_BTHE, k_BTKE, v_BTKE))
    if q_BTHE.is_cuda:  # what the kernel reads; here, so that a compiled graph writes it so
        q_NHE, k_NKE, v_NKE = (x.contiguous() for x in (q_NHE, k_NKE, v_NKE))
    mixed_NHE, _ = within_documents(q_NHE, k_NKE, v_NKE, *documents)
    return mixed_NHE.view_as(q_BTHE)


def _check(q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, documents: Documents | None) -> None:
    B, T, H, E = q_BTHE.shape
    K = k_BTKE.shape[2]
    if k_BTKE.shape != (B, T, K, E) or v_BTKE.shape != k_BTKE.shape or not K or H % K:
        shapes = ", ".join(str(tuple(x.shape)) for x in (q_BTHE, k_BTKE, v_BTKE))
        raise ValueError(f"q, k and v must be B T H E, B T K E and B T K E with H a multiple of K, not {shapes}")
    if documents is not None and len(documents.starts_N) != B * T:
        raise ValueError(f"documents are of {len(documents.starts_N)} tokens, and q, k and v of {B} rows of {T}")
