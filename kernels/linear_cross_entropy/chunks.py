"""The loop over chunks of tokens: a chunk's logits become their derivative in place, and the derivative two products.

Letters: T tokens, D width, V vocabulary, C tokens of a chunk.
"""

from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.linear_cross_entropy import cpu


class Terms(NamedTuple):
    """What the loss of a token is made of; reference.py has the formula."""

    softcap: float = 0.0
    z_loss: float = 0.0
    temperature: float = 1.0


def backend(on_gpu: bool) -> ModuleType:
    """chunk_tokens, sum_dtype, logits_, derivative_ and add_product_; a machine without a GPU may lack triton."""
    if not on_gpu:
        return cpu
    from kernels.linear_cross_entropy import triton

    return triton


def chunked(
    x_TD: Tensor,
    weight_VD: Tensor,
    targets_T: Tensor,
    shares_T: Tensor,
    terms: Terms,
    each_T: Tensor | None,
    back_x: bool,
    back_weight: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """(cross-entropy, squared log-partition, grad_x_TD, grad_weight_VD): sums over the tokens by their shares, and
    the gradients of the first plus z_loss times the second, where asked for. each_T gets the cross-entropy of each token.

    Products are in the dtype of x, sums in that of shares_T, which is fp32 or wider. Held beside the gradients: a chunk of
    logits; the weight in the dtype of x and the sum of its gradient, where those are not the weight's own.
    """
    made_by = backend(x_TD.is_cuda)
    matrix_VD = weight_VD.to(x_TD.dtype)
    T, V = len(x_TD), len(weight_VD)
    chunk = made_by.chunk_tokens(T, V, x_TD.element_size())
    buffer_CV = logits_CV = x_TD.new_empty(min(chunk, T), V)
    grad_x_TD = torch.empty_like(x_TD) if back_x else None
    sum_dtype = made_by.sum_dtype(weight_VD, x_TD.dtype)
    grad_weight_VD = torch.zeros_like(weight_VD, dtype=sum_dtype) if back_weight else None
    cross_entropy, squares = shares_T.new_zeros(()), shares_T.new_zeros(())
    for start in range(0, T, chunk):
        part = slice(start, start + chunk)
        x_CD, share_C = x_TD[part], shares_T[part]
        logits_CV = made_by.logits_(buffer_CV[: len(x_CD)], x_CD, matrix_VD)
        cross_entropy_C, log_partition_C = made_by.derivative_(logits_CV, targets_T[part], *terms)
        cross_entropy += share_C @ cross_entropy_C
        squares += share_C @ log_partition_C.square()
        if each_T is not None:
            each_T[part] = cross_entropy_C
        slope_C1 = (share_C / terms.temperature)[:, None]
        if grad_x_TD is not None:
            torch.mm(logits_CV, matrix_VD, out=grad_x_TD[part]).mul_(slope_C1)
        if grad_weight_VD is not None:
            made_by.add_product_(grad_weight_VD, logits_CV.T, x_CD * slope_C1)
    del buffer_CV, logits_CV  # or the gradient is cast beside them
    return cross_entropy, squares, grad_x_TD, None if grad_weight_VD is None else grad_weight_VD.to(weight_VD.dtype)
