"""Attention within documents as an operator of torch: to Dynamo one node of the graph, whatever the documents are.

The kernels read documents from tensors, so nothing of a batch is a constant of the graph, and a compiled block is compiled
once. Registered by torch.library.define and impl rather than custom_op: its wrapper imports Dynamo at the first call, which an
evaluation that compiles nothing would pay for.
Letters: N tokens of all documents, H query heads, K key/value heads, E head width.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.attention import cpu

FORWARD, BACKWARD = "tokenmill::attention", "tokenmill::attention_backward"


def kernels(q: Tensor) -> ModuleType:
    """The module whose `forward` and `backward` compute the operator where q is."""
    if not q.is_cuda:
        return cpu
    from kernels.attention import triton

    return triton


def _forward(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """q_NHE, k_NKE, v_NKE, starts_N, ends_N -> mixed_NHE, and of each row of scores the log-sum-exp, H x N, in the unit of the
    kernel: the backward of the same kernel reads it."""
    return kernels(q).forward(q, k, v, starts, ends)


def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: Tensor,
    ends: Tensor,
    mixed: Tensor,
    logsumexp: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of mixed_NHE and what the forward had and made -> dq_NHE, dk_NKE, dv_NKE."""
    return kernels(q).backward(grad, q, k, v, starts, ends, mixed, logsumexp)


def _define(name: str, function: Callable[..., object]) -> None:
    schema = torch.library.infer_schema(function, mutates_args=())
    torch.library.define(name, schema, tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(name, "default", function)


_define(FORWARD, _forward)
_define(BACKWARD, _backward)


@torch.library.register_fake(FORWARD)
def _shapes(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    N, H, _ = q.shape
    wide = torch.promote_types(q.dtype, torch.float32)
    return q.new_empty(q.shape), q.new_empty((H, N), dtype=wide)


@torch.library.register_fake(BACKWARD)
def _shapes_of_gradients(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.set_materialize_grads(False)  # of the log-sum-exp, which nothing differentiates


@once_differentiable
def _gradients(ctx: Any, grad: Tensor | None, of_logsumexp: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 5
    grads = torch.ops.tokenmill.attention_backward.default(grad.contiguous(), *ctx.saved_tensors)
    return *grads, None, None


torch.library.register_autograd(FORWARD, _gradients, setup_context=_keep)
within_documents = torch.ops.tokenmill.attention.default
