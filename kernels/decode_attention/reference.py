"""Attention of one new token a row as a masked softmax, Vaswani et al. 2017, arXiv:1706.03762, equation 1."""

import math

import torch
from torch import Tensor


def decode_attention(
    q_BHE: Tensor, k_BKE: Tensor, v_BKE: Tensor, keys_BKCE: Tensor, values_BKCE: Tensor, lengths_B: Tensor
) -> Tensor:
    """mixed_BHE: softmax(q k / sqrt(E)) v over a row's kept tokens and the new one, which is kept, too.

    Query head h reads key/value head h // (H / K), as in arXiv:2305.13245.
    """
    B, H, E = q_BHE.shape
    rows = torch.arange(B, device=q_BHE.device)
    keys_BKCE[rows, :, lengths_B] = k_BKE.to(keys_BKCE.dtype)
    values_BKCE[rows, :, lengths_B] = v_BKE.to(values_BKCE.dtype)
    wide = torch.promote_types(keys_BKCE.dtype, torch.float32)
    q_BHE = q_BHE.to(keys_BKCE.dtype)
    keys_BHCE, values_BHCE = (x.to(wide).repeat_interleave(H // x.shape[1], dim=1) for x in (keys_BKCE, values_BKCE))
    scores_BHC = torch.einsum("bhe,bhce->bhc", q_BHE.to(wide), keys_BHCE) / math.sqrt(E)
    visible_BC = torch.arange(keys_BKCE.shape[2], device=q_BHE.device) <= lengths_B[:, None]
    shares_BHC = scores_BHC.masked_fill(~visible_BC[:, None], -torch.inf).softmax(-1)
    # what stands in the other slots may be no number
    values_BHCE = values_BHCE.masked_fill(~visible_BC[:, None, :, None], 0)
    return torch.einsum("bhc,bhce->bhe", shares_BHC, values_BHCE).to(q_BHE.dtype)
