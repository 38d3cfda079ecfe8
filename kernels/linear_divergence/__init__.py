"""A divergence of two heads' distributions without ever holding all logits: chunks of tokens, gradients in the forward.

Letters: T tokens, D and E widths of the two models, V vocabulary, C tokens of a chunk.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.linear_cross_entropy.chunks import backend

Divergence = Callable[[Tensor, Tensor], Tensor]


def linear_divergence(
    x_TD: Tensor,
    weight_VD: Tensor,
    teacher_x_TE: Tensor,
    teacher_weight_VE: Tensor,
    divergence: Divergence,
    denominator: Tensor | float,
) -> Tensor:
    """The sum over the tokens of divergence(logits_CV, teacher_logits_CV), C numbers, over the denominator: an fp32 scalar with
    gradients for x_TD and weight_VD.

    The divergence gets logits in fp32, and is differentiated by autograd a chunk at a time: three products of T x D x V for the
    student and one for the teacher. Held beside the gradients: what the divergence makes of a chunk of logits, and both weights
    in the dtype of the products, where that is not their own.
    Raises ValueError when shapes do not fit, RuntimeError when backward is called twice.
    """
    for name, x, weight in (("student", x_TD, weight_VD), ("teacher", teacher_x_TE, teacher_weight_VE)):
        if x.shape[1:] != weight.shape[1:] or len(x) != len(x_TD) or len(weight) != len(weight_VD):
            shapes = f"tokens of shape {tuple(x.shape)} and a weight of {tuple(weight.shape)}"
            raise ValueError(f"{name}: {shapes}, for {len(x_TD)} tokens and {len(weight_VD)} words")
    device = x_TD.device.type
    if torch.is_autocast_enabled(device):
        x_TD, teacher_x_TE = (x.to(torch.get_autocast_dtype(device)) for x in (x_TD, teacher_x_TE))
    teacher = teacher_x_TE.detach(), teacher_weight_VE.detach().to(teacher_x_TE.dtype)
    with torch.autocast(device, enabled=False):
        return _LinearDivergence.apply(x_TD, weight_VD, *teacher, divergence, denominator)


class _LinearDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        weight_VD: Tensor,
        teacher_x_TE: Tensor,
        teacher_VE: Tensor,
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
            teacher_CV = (teacher_x_TE[part] @ teacher_VE.T).to(wide)
            with torch.enable_grad():
                loss = divergence(logits_CV, teacher_CV).sum() / denominator
            total += loss.detach()
            if logits_CV.requires_grad:
                slope_CV = torch.autograd.grad(loss, logits_CV)[0].to(x_TD.dtype)
                del loss, logits_CV, teacher_CV  # or the next chunk is made beside them
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
        return *(made if made is None else made.mul_(grad) for made in grads), None, None, None, None
