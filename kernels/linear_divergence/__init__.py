"""A divergence of two heads' distributions, or of one's from stored targets, without ever holding all logits: chunks of
tokens, gradients in the forward.

Letters: T tokens, D and E widths of the two models, V vocabulary, C tokens of a chunk.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.linear_cross_entropy.chunks import backend

Divergence = Callable[..., Tensor]
# tokens of a chunk -> what the divergence is given of them beside the student's logits
Theirs = Callable[[slice], tuple[Tensor, ...]]


def linear_divergence(
    x_TD: Tensor,
    weight_VD: Tensor,
    teacher_x_TE: Tensor,
    teacher_weight_VE: Tensor,
    divergence: Divergence,
    denominator: Tensor | float,
    weights_T: Tensor | None = None,
) -> Tensor:
    """The sum over the tokens of divergence(logits_CV, teacher_logits_CV), C numbers, over the denominator: an fp32 scalar with
    gradients for x_TD and weight_VD. weights_T: of each token, or whether it counts; 1 if not given.

    The divergence gets logits in fp32, and is differentiated by autograd a chunk at a time: three products of T x D x V for the
    student and one for the teacher. Held beside the gradients: what the divergence makes of a chunk of logits, and both weights
    in the dtype of the products, where that is not their own.
    Raises ValueError when shapes do not fit, RuntimeError when backward is called twice.
    """
    for name, x, weight in (("student", x_TD, weight_VD), ("teacher", teacher_x_TE, teacher_weight_VE)):
        if x.shape[1:] != weight.shape[1:] or len(x) != len(x_TD) or len(weight) != len(weight_VD):
            shapes = f"tokens of shape {tuple(x.shape)} and a weight of {tuple(weight.shape)}"
            raise ValueError(f"{name}: {shapes}, for {len(x_TD)} tokens and {len(weight_VD)} words")
    x_TD, teacher_x_TE = _as_products(x_TD), _as_products(teacher_x_TE)
    teacher_TE, teacher_VE = teacher_x_TE.detach(), teacher_weight_VE.detach().to(teacher_x_TE.dtype)
    wide = torch.promote_types(x_TD.dtype, torch.float32)

    def logits_of(part: slice) -> tuple[Tensor, ...]:
        logits_CV = (teacher_TE[part] @ teacher_VE.T).to(wide)
        return (logits_CV,) if weights_T is None else (logits_CV, weights_T[part])

    def weighed(logits_CV: Tensor, teacher_CV: Tensor, weights_C: Tensor | None = None) -> Tensor:
        each_C = divergence(logits_CV, teacher_CV)
        return each_C if weights_C is None else each_C * weights_C

    with torch.autocast(x_TD.device.type, enabled=False):
        return _LinearDivergence.apply(x_TD, weight_VD, logits_of, weighed, denominator)


def linear_divergence_from(
    x_TD: Tensor, weight_VD: Tensor, targets: Sequence[Tensor], divergence: Divergence, denominator: Tensor | float
) -> Tensor:
    """The sum over the tokens of divergence(logits_CV, *targets of the chunk), C numbers, over the denominator: as
    linear_divergence, of targets that are there, T rows each, in the place of a teacher's head.

    Raises ValueError when shapes do not fit, RuntimeError when backward is called twice.
    """
    if x_TD.shape[1:] != weight_VD.shape[1:] or any(len(each) != len(x_TD) for each in targets):
        shapes = f"tokens of shape {tuple(x_TD.shape)} and a weight of {tuple(weight_VD.shape)}"
        raise ValueError(f"{shapes}, and targets of {[len(each) for each in targets]} tokens")
    x_TD = _as_products(x_TD)
    with torch.autocast(x_TD.device.type, enabled=False):
        return _LinearDivergence.apply(
            x_TD, weight_VD, lambda part: tuple(each[part] for each in targets), divergence, denominator
        )


def _as_products(x: Tensor) -> Tensor:
    """The tokens in the dtype in which matrices are multiplied here."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


class _LinearDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        weight_VD: Tensor,
        theirs: Theirs,
        divergence: Divergence,
        denominator: Tensor | float,
    ) -> Tensor:
        made_by, wide = backend(x_TD.is_cuda), torch.promote_types(x_TD.dtype, torch.float32)
        back_x, back_weight = ctx.needs_input_grad[:2]
        matrix_VD = weight_VD.to(x_TD.dtype)
        grad_x_TD = torch.empty_like(x_TD) if back_x else None
        sum_dtype = made_by.sum_dtype(weight_VD, x_TD.dtype)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=sum_dtype) if back_weight else None
        total = x_TD.new_zeros((), dtype=wide)
        chunk = made_by.chunk_tokens(len(x_TD), len(weight_VD), wide.itemsize)
        for start in range(0, len(x_TD), chunk):
            part = slice(start, start + chunk)
            x_CD = x_TD[part]
            logits_CV = (x_CD @ matrix_VD.T).to(wide).requires_grad_(back_x or back_weight)
            given = theirs(part)
            with torch.enable_grad():
                loss = divergence(logits_CV, *given).sum() / denominator
            total += loss.detach()
            if logits_CV.requires_grad:
                slope_CV = torch.autograd.grad(loss, logits_CV)[0].to(x_TD.dtype)
                del loss, logits_CV, given  # or the next chunk is made beside them
                if grad_x_TD is not None:
                    torch.mm(slope_CV, matrix_VD, out=grad_x_TD[part])
                if grad_weight_VD is not None:
                    made_by.add_product_(grad_weight_VD, slope_CV.T, x_CD)
                del slope_CV
        ctx.grads = grad_x_TD, None if grad_weight_VD is None else grad_weight_VD.to(weight_VD.dtype)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError("linear_divergence: the first backward gave the gradients away; compute the loss again")
        grads, ctx.grads = ctx.grads, None
        return *(made if made is None else made.mul_(grad) for made in grads), None, None, None
