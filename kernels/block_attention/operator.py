"""Attention over kept blocks as an operator of torch: to Dynamo one node of the graph, whatever is kept.

How many blocks a batch has and which are kept is looked at within, so that nothing of a batch is a constant of the graph. The
same code runs wherever the tensors are: there is no kernel of a GPU, which waits for the lists of blocks. Letters as in
kernels/block_attention.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.block_attention import tiles
from kernels.block_attention.blocks import blocks_of, kept_tiles
from kernels.block_attention.tiles import Tiles

FORWARD, BACKWARD = "tokenmill::block_attention", "tokenmill::block_attention_backward"


def _planes(x_BTHE: Tensor) -> Tensor:
    """x_PTE, P being B x H."""
    return x_BTHE.transpose(1, 2).flatten(0, 1)


def _rows(x_PTE: Tensor, rows: int) -> Tensor:
    """x_BTHE of its planes."""
    return x_PTE.unflatten(0, (rows, -1)).transpose(1, 2).contiguous()


def _laid_out(starts_BT: Tensor, kept: Tensor, block: int) -> tuple[Tiles, Tiles, Tensor]:
    found, numbers_BX = blocks_of(starts_BT, block)
    return found, found, kept_tiles(kept, found, numbers_BX)


def _forward(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, kept: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """q_BTHE, k_BTKE, v_BTKE, starts_BT, kept -> mixed_BTHE and the log-sum-exp of each row of scores, (B H) x T."""
    with torch.autocast(q.device.type, enabled=False):
        mixed_PTE, sums_PT = tiles.forward(_planes(q), _planes(k), _planes(v), *_laid_out(starts, kept, block))
    return _rows(mixed_PTE, len(q)), sums_PT


def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: Tensor,
    kept: Tensor,
    mixed: Tensor,
    sums: Tensor,
    block: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of mixed_BTHE and what the forward had and made -> dq_BTHE, dk_BTKE, dv_BTKE."""
    with torch.autocast(q.device.type, enabled=False):
        planes = _planes(grad), _planes(q), _planes(k), _planes(v)
        grads = tiles.backward(*planes, *_laid_out(starts, kept, block), _planes(mixed), sums)
    dq, dk, dv = (_rows(each, len(q)) for each in grads)
    return dq, dk, dv


def _define(name: str, function: Callable[..., object]) -> None:
    schema = torch.library.infer_schema(function, mutates_args=())
    torch.library.define(name, schema, tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(name, "default", function)


_define(FORWARD, _forward)
_define(BACKWARD, _backward)


@torch.library.register_fake(FORWARD)
def _shapes(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, kept: Tensor, block: int) -> tuple[Tensor, Tensor]:
    B, T, H, _ = q.shape
    return q.new_empty(q.shape), q.new_empty((B * H, T), dtype=torch.promote_types(q.dtype, torch.float32))


@torch.library.register_fake(BACKWARD)
def _shapes_of_gradients(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.block = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.set_materialize_grads(False)  # of the log-sum-exp, which nothing differentiates


@once_differentiable
def _gradients(ctx: Any, grad: Tensor | None, of_sums: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 6
    grads = torch.ops.tokenmill.block_attention_backward.default(grad.contiguous(), *ctx.saved_tensors, ctx.block)
    return *grads, None, None, None


torch.library.register_autograd(FORWARD, _gradients, setup_context=_keep)
within_blocks = torch.ops.tokenmill.block_attention.default
