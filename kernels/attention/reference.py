"""Causal attention within documents as a masked softmax, Vaswani et al. 2017, arXiv:1706.03762, equation 1."""

import math

import torch
from torch import Tensor


def attention(q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, bounds: Tensor | None, causal: bool = True) -> Tensor:
    """mixed_BTHE: softmax(q k / sqrt(E)) v over the tokens of the same document, where it is causal up to the query's own.

    Query head h reads key/value head h // (H / K), as in arXiv:2305.13245.
    """
    B, T, H, E = q_BTHE.shape
    visible_BTS = same_document(B, T, bounds).to(q_BTHE.device)
    if causal:
        visible_BTS = visible_BTS.tril()
    k_BTHE, v_BTHE = (x.repeat_interleave(H // x.shape[2], dim=2) for x in (k_BTKE, v_BTKE))
    scores_BHTS = torch.einsum("bthe,bshe->bhts", q_BTHE, k_BTHE) / math.sqrt(E)
    shares_BHTS = scores_BHTS.masked_fill(~visible_BTS[:, None], -torch.inf).softmax(-1)
    return torch.einsum("bhts,bshe->bthe", shares_BHTS, v_BTHE)


def same_document(rows: int, length: int, bounds: Tensor | None) -> Tensor:
    """visible_BTS: whether two tokens of a row of `length` tokens belong to one document."""
    if bounds is None:
        return torch.ones(rows, length, length, dtype=torch.bool)
    document_BT = torch.searchsorted(bounds, torch.arange(rows * length), right=True).view(rows, length)
    return document_BT[:, :, None] == document_BT[:, None, :]
