"""Causal attention within buckets: a query sees the keys of its own bucket, in its document, up to its own token (Pagliardini
et al. 2023, "Faster Causal Attention Over Large Sequences Through Sparse Flash Attention", arXiv:2306.01160, section 3.2).

Queries and keys are sorted by bucket, each by themselves, and cut into tiles; a tile of keys is read by a tile of queries only
where their buckets meet and a key is not behind all of the queries. Within tiles the original places decide, so that the result
is exact. Letters as in kernels/block_attention; G is B x K.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.block_attention import tiles
from kernels.block_attention.tiles import Tiles

FORWARD, BACKWARD = "tokenmill::hashed_attention", "tokenmill::hashed_attention_backward"


def hashed_attention(
    q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, starts_BT: Tensor, of_q_BTH: Tensor, of_k_BTK: Tensor, block: int
) -> Tensor:
    """mixed_BTHE: for each query the mean of the values that it sees, weighted by the softmax of q k / sqrt(E); 0 where it sees
    none, as where its bucket has no key yet.

    starts_BT: the place in its row of the first token of each token's document. of_q_BTH, of_k_BTK: buckets, not negative.
    block: tokens of a tile, on which no result depends but in rounding. Raises ValueError for shapes that do not fit.
    """
    H, K = q_BTHE.shape[2], k_BTKE.shape[2]
    if H % K or of_q_BTH.shape != q_BTHE.shape[:3] or of_k_BTK.shape != k_BTKE.shape[:3]:
        raise ValueError(
            f"buckets must be B T H and B T K with H a multiple of K, not {tuple(of_q_BTH.shape)} and "
            f"{tuple(of_k_BTK.shape)} for {H} and {K} heads"
        )
    return _operator(q_BTHE, k_BTKE, v_BTKE, starts_BT, of_q_BTH, of_k_BTK, block)[0]


def by_bucket(starts_BT: Tensor, buckets_BTH: Tensor, most: int, block: int) -> Tiles:
    """Tiles of each head of each row: its tokens by document, bucket and place. most: more than any bucket's number."""
    B, T, H = buckets_BTH.shape
    groups_BHT = (starts_BT[..., None].long() * most + buckets_BTH).transpose(1, 2)
    order_BHT = groups_BHT.argsort(dim=2, stable=True)
    room = (0, -T % block)
    found = (F.pad(x, room, value=-1) for x in (order_BHT, groups_BHT.gather(2, order_BHT)))
    return Tiles(*(x.reshape(B * H, -1, block) for x in found))


def overlapping_tiles(queries: Tiles, keys: Tiles) -> Tensor:
    """kept_PXY: whether a key of a tile may be seen by a query of another, by their groups' ends and their tokens'."""
    share = len(queries.tokens_RXb) // len(keys.tokens_RXb)
    far = torch.iinfo(torch.int64).max
    ends = []
    for tokens, groups in (queries, keys):
        none = tokens < 0
        least = (x.masked_fill(none, far).amin(-1) for x in (tokens, groups))
        ends.append((*least, *(x.amax(-1) for x in (tokens, groups))))
    q = [x[:, :, None] for x in ends[0]]
    k = [x.repeat_interleave(share, 0)[:, None] for x in ends[1]]
    return (k[1] <= q[3]) & (k[3] >= q[1]) & (k[0] <= q[2])


def _planes(x_BTHE: Tensor) -> Tensor:
    return x_BTHE.transpose(1, 2).flatten(0, 1)


def _rows(x_PTE: Tensor, rows: int) -> Tensor:
    return x_PTE.unflatten(0, (rows, -1)).transpose(1, 2).contiguous()


def _laid_out(starts: Tensor, of_q: Tensor, of_k: Tensor, block: int) -> tuple[Tiles, Tiles, Tensor]:
    most = int(max(of_q.max(), of_k.max())) + 1
    queries, keys = (by_bucket(starts, each, most, block) for each in (of_q, of_k))
    return queries, keys, overlapping_tiles(queries, keys)


def _forward(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor, of_q: Tensor, of_k: Tensor, block: int
) -> tuple[Tensor, Tensor]:
    with torch.autocast(q.device.type, enabled=False):
        planes = _planes(q), _planes(k), _planes(v)
        mixed_PTE, sums_PT = tiles.forward(*planes, *_laid_out(starts, of_q, of_k, block))
    return _rows(mixed_PTE, len(q)), sums_PT


def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: Tensor,
    of_q: Tensor,
    of_k: Tensor,
    mixed: Tensor,
    sums: Tensor,
    block: int,
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast(q.device.type, enabled=False):
        laid_out = _laid_out(starts, of_q, of_k, block)
        planes = _planes(grad), _planes(q), _planes(k), _planes(v)
        grads = tiles.backward(*planes, *laid_out, _planes(mixed), sums)
    dq, dk, dv = (_rows(each, len(q)) for each in grads)
    return dq, dk, dv


def _define(name: str, function: Callable[..., object]) -> None:
    schema = torch.library.infer_schema(function, mutates_args=())
    torch.library.define(name, schema, tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(name, "default", function)


_define(FORWARD, _forward)
_define(BACKWARD, _backward)


@torch.library.register_fake(FORWARD)
def _shapes(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    B, T, H, _E = q.shape
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
        return (None,) * 7
    grads = torch.ops.tokenmill.hashed_attention_backward.default(grad.contiguous(), *ctx.saved_tensors, ctx.block)
    return *grads, None, None, None, None


torch.library.register_autograd(FORWARD, _gradients, setup_context=_keep)
_operator = torch.ops.tokenmill.hashed_attention.default
