"""Attention of one new token a row over the tokens kept of its row, which it joins.

Letters: B rows, H query heads, K key/value heads, C slots of a row, E head width. No gradients.
"""

import torch
from torch import Tensor

from kernels.decode_attention import reference


def decode_attention(
    q_BHE: Tensor, k_BKE: Tensor, v_BKE: Tensor, keys_BKCE: Tensor, values_BKCE: Tensor, lengths_B: Tensor
) -> Tensor:
    """mixed_BHE, in the dtype of q: the mean of the values of row b's first lengths_B[b] slots and of the new one, weighted by
    the softmax of q k / sqrt(E). The new key and value are put into slot lengths_B[b]; lengths stay as they are.

    Each length is below C, which is not checked: it would wait for the device. Query head h reads key/value head h // (H / K).
    Computed in fp32 from keys and values in their own dtype, to which q, k and v are rounded. Raises ValueError for shapes
    that do not fit and for keys and values that are not contiguous.
    """
    B, H, E = q_BHE.shape
    K = k_BKE.shape[1]
    kept = keys_BKCE.shape
    fits = k_BKE.shape == v_BKE.shape == (B, K, E) and K > 0 and H % K == 0
    if not fits or values_BKCE.shape != kept or (*kept[:2], *kept[3:]) != (B, K, E) or lengths_B.shape != (B,):
        shapes = ", ".join(str(tuple(x.shape)) for x in (q_BHE, k_BKE, v_BKE, keys_BKCE, values_BKCE, lengths_B))
        raise ValueError(
            f"q, k, v, keys, values and lengths must be B H E, B K E, B K E, B K C E, B K C E and B with H a multiple of K, "
            f"not {shapes}"
        )
    if not (keys_BKCE.is_contiguous() and values_BKCE.is_contiguous()):
        raise ValueError("keys and values must be contiguous: give a layer of a cache, not a part of its slots")
    if q_BHE.is_cuda and keys_BKCE.dtype != torch.float64:
        from kernels.decode_attention import triton

        return triton.decode_attention(q_BHE, k_BKE, v_BKE, keys_BKCE, values_BKCE, lengths_B)
    return reference.decode_attention(q_BHE, k_BKE, v_BKE, keys_BKCE, values_BKCE, lengths_B)
