"""The loss of a language model's head without ever holding all logits: chunks of tokens, gradients in the forward.

Letters: T tokens, D width, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.linear_cross_entropy.chunks import Terms, chunked

IGNORED = -100


def linear_cross_entropy(
    x_TD: Tensor,
    weight_VD: Tensor,
    targets_T: Tensor,
    *,
    weights_T: Tensor | None = None,
    denominator: Tensor | float | None = None,
    softcap: float = 0.0,
    z_loss: float = 0.0,
    each_T: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(loss, its part that is cross-entropy, without a gradient), fp32 scalars in nats; reference.py has the formula.

    Targets of -100 count nothing. weights_T: of each token; 1 if not given. denominator: the sum of the weights that count, if
    not given; a part of a batch passes that of the whole. Where nothing counts the loss is 0. each_T: gets the cross-entropy of
    each token, whatever its weight.
    The forward makes the gradients, as Liger Kernel's does (arXiv:2410.10989): three products of T x D x V, against
    four where the backward makes the logits anew. Differs from it: chunks are sized for the speed of products, and sums over
    chunks are fp32 (on a GPU, and of a weight of 16 bits alone, where triton.py's sum_dtype says so).
    Raises ValueError when shapes do not fit, RuntimeError when backward is called twice.
    """
    x_TD, weight_VD = _checked(x_TD, weight_VD, targets=targets_T, weights=weights_T)
    if not torch.is_grad_enabled():
        x_TD, weight_VD = x_TD.detach(), weight_VD.detach()
    counts_T = targets_T != IGNORED
    wide = torch.promote_types(x_TD.dtype, torch.float32)
    weights_T = counts_T.to(wide) if weights_T is None else weights_T.to(wide).where(counts_T, 0)
    if denominator is None:
        total = weights_T.sum()
        denominator = total.where(total != 0, 1)
    with torch.autocast(x_TD.device.type, enabled=False):
        return _LinearCrossEntropy.apply(
            x_TD,
            weight_VD,
            targets_T.where(counts_T, 0),
            weights_T / denominator,
            Terms(softcap=softcap, z_loss=z_loss),
            each_T,
        )


def linear_log_probabilities(
    x_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, *, temperature: float = 1.0, softcap: float = 0.0
) -> Tensor:
    """logp_T of the targets (nats, fp32) where logits are capped and then divided by the temperature, for whatever loss is made
    of them.

    The backward makes the logits of each chunk anew, since it alone knows what a token's gradient is multiplied with: four
    products of T x D x V in all. Nothing of the size of the logits is kept in between.
    Raises ValueError when shapes do not fit.
    """
    x_TD, weight_VD = _checked(x_TD, weight_VD, targets=targets_T)
    with torch.autocast(x_TD.device.type, enabled=False):
        return _LinearLogProbabilities.apply(
            x_TD, weight_VD, targets_T, Terms(softcap=softcap, temperature=temperature)
        )


def _checked(x_TD: Tensor, weight_VD: Tensor, **each: Tensor | None) -> tuple[Tensor, Tensor]:
    """(x_TD in the dtype of autocast where that is on, weight_VD)."""
    if x_TD.shape[1:] != weight_VD.shape[1:]:
        raise ValueError(f"tokens are {tuple(x_TD.shape[1:])} wide, rows of the weight {tuple(weight_VD.shape[1:])}")
    for name, given in each.items():
        if given is not None and given.shape != x_TD.shape[:1]:
            raise ValueError(f"{name} of shape {tuple(given.shape)} for {len(x_TD)} tokens; give one to each")
    if torch.is_autocast_enabled(x_TD.device.type):
        x_TD = x_TD.to(torch.get_autocast_dtype(x_TD.device.type))
    return x_TD, weight_VD


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        weight_VD: Tensor,
        targets_T: Tensor,
        shares_T: Tensor,
        terms: Terms,
        each_T: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        cross_entropy, squares, *ctx.grads = chunked(
            x_TD, weight_VD, targets_T, shares_T, terms, each_T, *ctx.needs_input_grad[:2]
        )
        ctx.mark_non_differentiable(cross_entropy)
        return cross_entropy + terms.z_loss * squares, cross_entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError(
                "linear_cross_entropy: the first backward gave the gradients away; compute the loss again"
            )
        grads, ctx.grads = ctx.grads, None
        return *(made if made is None else made.mul_(grad) for made in grads), None, None, None, None


class _LinearLogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, terms: Terms) -> Tensor:
        ctx.save_for_backward(x_TD, weight_VD, targets_T)
        ctx.terms = terms
        each_T = x_TD.new_empty(len(x_TD), dtype=torch.promote_types(x_TD.dtype, torch.float32))
        chunked(x_TD, weight_VD, targets_T, torch.zeros_like(each_T), terms, each_T, False, False)
        return -each_T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_T: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weight_VD, targets_T = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:2]
        *_, grad_x_TD, grad_weight_VD = chunked(x_TD, weight_VD, targets_T, -grad_T, ctx.terms, None, *wanted)
        return grad_x_TD, grad_weight_VD, None, None
