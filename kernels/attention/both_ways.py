"""Attention that looks both ways within documents: what the causal one is without causality, by torch's own kernels.

Letters as in kernels/attention/__init__.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention import cpu
from kernels.attention.documents import Documents


def document_mask(documents: Documents, rows: int, length: int, dtype: torch.dtype) -> Tensor:
    """hidden_B1TT of `attention_both_ways`: 0 for two tokens of one document, and of two -inf. Made once a pass, and in the
    dtype of its queries: of a mask of booleans torch makes this one in every layer, and each layer's backward keeps its own."""
    starts_BT = documents.starts_N.view(rows, length)
    apart_BTT = starts_BT[:, :, None] != starts_BT[:, None, :]
    return torch.zeros_like(apart_BTT, dtype=dtype).masked_fill_(apart_BTT, -torch.inf)[:, None]


def attention_both_ways(q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, hidden_B1TT: Tensor | None) -> Tensor:
    """mixed_BTHE: for each query the mean of the values of all tokens that it sees, weighted by the softmax of
    q k / sqrt(E). hidden_B1TT: 0 for those, each query's own token among them, and -inf for others; None: all of its row.

    H is a multiple of K; query head h reads key/value head h // (H / K). With a mask every row costs as one document would:
    short documents are not left out of the products, as they are of the causal kernels'.
    """
    heads = q_BTHE.shape[2]
    mask = None if hidden_B1TT is None else hidden_B1TT.to(q_BTHE.dtype)
    if not q_BTHE.is_cuda or v_BTKE.dtype == torch.float32:
        # heads repeated by hand, for the reasons that the causal attention has
        k_BTKE, v_BTKE = cpu.repeated(k_BTKE, heads), cpu.repeated(v_BTKE, heads)
    q, k, v = (x.transpose(1, 2) for x in (q_BTHE, k_BTKE, v_BTKE))
    grouped = k.shape[1] < q.shape[1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped).transpose(1, 2)
