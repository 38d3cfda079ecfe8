"""The gate of SeerAttention (Gao et al. 2024, arXiv:2410.13276, section 3): queries and keys of blocks, pooled, say which
blocks of keys a block of queries will find large attention in; what it learns from is the attention map itself.

Pooled are projections as they are before norm and rotation; a block's result, by a matrix of each head, is then turned by the
position of one token. Of keys maximum, minimum and mean are pooled, as in the paper; of queries the block's first stands for
all. The truth of a pair of blocks is the largest entry that the full attention map has there (section 3.3).

Differs from the paper: a mean of queries would let a token see what follows it in its block, so the first is taken; a pair's
truth is met by a sigmoid and cross-entropy of its own, not by a softmax over a row and a divergence, since a row of one pair
would teach nothing; the map is made in pieces beside attention, not within its kernel.

Letters as in kernels/block_attention; X blocks of the row that has the most; F = 3 E.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.block_attention.blocks import blocks_of
from kernels.block_attention.tiles import Tiles
from kernels.rope.reference import rotate

# entries of the attention map at once: bounds what is held beside the tensors, 4 MiB in fp32 for each of a few
ENTRIES = 1 << 20
CHOICE, LOSS = "tokenmill::block_choice", "tokenmill::block_gate_loss"


def pooled(k_BKXbE: Tensor, there_BXb: Tensor | None = None) -> Tensor:
    """pooled_BKXF of blocks of keys: maximum, minimum and mean of those that are there (None: all), 0 for a block of none."""
    if there_BXb is None:
        return torch.cat((k_BKXbE.amax(3), k_BKXbE.amin(3), k_BKXbE.mean(3)), -1)
    there_B1Xb1 = there_BXb[:, None, ..., None]
    most, least = (k_BKXbE.masked_fill(~there_B1Xb1, end) for end in (-torch.inf, torch.inf))
    count_B1X1 = there_BXb.sum(-1)[:, None, :, None]
    mean = k_BKXbE.masked_fill(~there_B1Xb1, 0.0).sum(3) / count_B1X1.clamp(min=1)
    found = torch.cat((most.amax(3), least.amin(3), mean), -1)
    return found.masked_fill(count_B1X1 == 0, 0.0)


def at(table: Tensor, places_BX: Tensor) -> Tensor:
    """cos or sin of the tokens at these places of their rows, B x 1 x X x E/2; table: T x E/2 or B x 1 x T x E/2."""
    B, X = places_BX.shape
    table = table.expand(B, 1, *table.shape[-2:])
    return table.gather(2, places_BX[:, None, :, None].expand(B, 1, X, table.shape[-1]))


def top_pairs(scores: Tensor, open_: Tensor, top: int) -> Tensor:
    """The pairs along the last axis that are open and of the `top` highest scores, as bool."""
    found = scores.masked_fill(~open_, -torch.inf).topk(min(top, scores.shape[-1]), -1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, found, True) & open_


class BlockPairs(NamedTuple):
    """Blocks of a pass and what the gate makes of them."""

    tiles: Tiles
    numbers_BX: Tensor
    first_BX: Tensor  # places of first and last tokens, 0 where there is no block
    last_BX: Tensor
    before_BXX: Tensor  # whether the second block is the first one or before it, in its document
    pooled_BKXF: Tensor
    keys_BKXE: Tensor

    @classmethod
    def of(
        cls, k_BTKE: Tensor, weight_KFE: Tensor, cos: Tensor, sin: Tensor, starts_BT: Tensor, block: int
    ) -> "BlockPairs":
        """k_BTKE: keys before norm and rotation."""
        tiles, numbers_BX = blocks_of(starts_BT, block)
        tokens_BXb = tiles.tokens_RXb
        B, X, b = tokens_BXb.shape
        K = k_BTKE.shape[2]
        k_BKXbE = tiles.gather(k_BTKE.transpose(1, 2).flatten(0, 1)).view(B, K, X, b, -1)
        pooled_BKXF = pooled(k_BKXbE, tokens_BXb >= 0)
        first_BX, last_BX = tokens_BXb[..., 0].clamp(min=0), tokens_BXb.amax(-1).clamp(min=0)
        turned = rotate(pooled_BKXF @ weight_KFE, at(cos, last_BX), at(sin, last_BX))
        group_BX = tiles.groups_RXb[..., 0]
        beside_BXX = (group_BX[:, :, None] == group_BX[:, None]) & (group_BX >= 0)[:, None]
        before_BXX = beside_BXX & (numbers_BX[:, :, None] >= numbers_BX[:, None])
        return cls(tiles, numbers_BX, first_BX, last_BX, before_BXX, pooled_BKXF, turned)

    def of_first(self, x_BTHE: Tensor) -> Tensor:
        """x_BHXE of the blocks' first tokens."""
        places = self.first_BX[..., None, None].expand(-1, -1, *x_BTHE.shape[2:])
        return x_BTHE.gather(1, places).transpose(1, 2)

    def scores(self, queries_BHXE: Tensor) -> Tensor:
        """scores_BHXX of pairs."""
        keys_BHXE = self.keys_BKXE.repeat_interleave(queries_BHXE.shape[1] // self.keys_BKXE.shape[1], 1)
        return queries_BHXE @ keys_BHXE.mT / math.sqrt(queries_BHXE.shape[-1])


def truth_of(q_BTHE: Tensor, k_BTKE: Tensor, tiles: Tiles) -> Tensor:
    """truth_BHXX: the largest entry of the causal attention map within documents for each pair of blocks."""
    B, T, H, E = q_BTHE.shape
    X, b = tiles.tokens_RXb.shape[1:]
    k_BTHE = k_BTKE.repeat_interleave(H // k_BTKE.shape[2], 2)
    q, k = (tiles.gather(x.transpose(1, 2).flatten(0, 1)).view(B, H, X, b, E) for x in (q_BTHE, k_BTHE))
    token_BXb, group_BXb = tiles
    found = []
    for some in torch.arange(X, device=q.device).split(max(1, ENTRIES // (B * H * b * X * b))):
        scores = (q[:, :, some].flatten(2, 3) @ k.flatten(2, 3).mT).to(torch.promote_types(q.dtype, torch.float32))
        seen_BNM = (group_BXb[:, some].flatten(1)[:, :, None] == group_BXb.flatten(1)[:, None]) & (
            token_BXb[:, some].flatten(1)[:, :, None] >= token_BXb.flatten(1)[:, None]
        )
        seen_BNM &= (token_BXb[:, some].flatten(1) >= 0)[:, :, None]
        scores.div_(math.sqrt(E)).masked_fill_(~seen_BNM[:, None], -torch.inf)
        shares = scores.softmax(-1).nan_to_num_(0.0)
        found.append(shares.view(B, H, len(some), b, X, b).amax((3, 5)))
    return torch.cat(found, 2)


def _choice(
    queries: Tensor, keys: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, starts: Tensor, block: int, top: int
) -> Tensor:
    """queries_BTHE of the gate, keys_BTKE before norm and rotation, weight_KFE -> kept_BHTC, read at a block's first token: its
    own block, and of those before the `top` likeliest."""
    B, T, H, _ = queries.shape
    with torch.autocast(queries.device.type, enabled=False):
        pairs = BlockPairs.of(keys, weight, cos, sin, starts, block)
        scores_BHXX = pairs.scores(pairs.of_first(queries))
    own_XX = torch.eye(pairs.first_BX.shape[1], dtype=torch.bool, device=queries.device)
    before_BHXX = pairs.before_BXX[:, None].expand_as(scores_BHXX)
    kept_BHXX = top_pairs(scores_BHXX, before_BHXX & ~own_XX, top) | (before_BHXX & own_XX)
    numbers_BHXX = pairs.numbers_BX[:, None, None].expand_as(kept_BHXX)
    kept_BHXC = kept_BHXX.new_zeros((*kept_BHXX.shape[:3], -(-T // block)), dtype=torch.int32)
    kept_BHXC = kept_BHXC.scatter_add(3, numbers_BHXX, kept_BHXX.int()) > 0
    rows_BX = torch.where(pairs.tiles.tokens_RXb[..., 0] < 0, T, pairs.first_BX)
    found = kept_BHXC.new_zeros((B, H, T + 1, kept_BHXC.shape[3]))
    found.scatter_(2, rows_BX[:, None, :, None].expand_as(kept_BHXC), kept_BHXC)
    return found[:, :, :T].contiguous()


def _loss(
    q: Tensor,
    k: Tensor,
    queries: Tensor,
    keys: Tensor,
    weight_q: Tensor,
    weight_k: Tensor,
    cos: Tensor,
    sin: Tensor,
    starts: Tensor,
    block: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """q_BTHE and k_BTKE of attention, queries and keys before norm and rotation, weights H x E x E and K x F x E -> the mean
    cross-entropy of pairs, and its gradients by the weights."""
    H, E = q.shape[2:]
    with torch.autocast(q.device.type, enabled=False):
        pairs = BlockPairs.of(keys, weight_k, cos, sin, starts, block)
        first_BHXE = pairs.of_first(queries)
        tables = [at(table, places) for places in (pairs.first_BX, pairs.last_BX) for table in (cos, sin)]
        turned_BHXE = rotate(first_BHXE @ weight_q, *tables[:2])
        scores_BHXX, truth_BHXX = pairs.scores(turned_BHXE), truth_of(q, k, pairs.tiles).to(queries.dtype)
        seen_B1XX = pairs.before_BXX[:, None]
        count = seen_B1XX.sum() * H
        off = F.binary_cross_entropy_with_logits(scores_BHXX, truth_BHXX, reduction="none")
        loss = off.masked_fill(~seen_B1XX, 0.0).sum() / count
        slopes = (scores_BHXX.sigmoid() - truth_BHXX).masked_fill(~seen_B1XX, 0.0) / (count * math.sqrt(E))
        K = weight_k.shape[0]
        of_queries = slopes @ pairs.keys_BKXE.repeat_interleave(H // K, 1)
        of_keys = (slopes.mT @ turned_BHXE).unflatten(1, (K, H // K)).sum(2)
        of_queries = rotate(of_queries, tables[0], -tables[1])
        of_keys = rotate(of_keys, tables[2], -tables[3])
        d_q = torch.einsum("bhxe,bhxf->hef", first_BHXE, of_queries)
        d_k = torch.einsum("bkxe,bkxf->kef", pairs.pooled_BKXF, of_keys)
    return loss, d_q, d_k


def _define(name: str, function: Callable[..., object]) -> None:
    schema = torch.library.infer_schema(function, mutates_args=())
    torch.library.define(name, schema, tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(name, "default", function)


_define(CHOICE, _choice)
_define(LOSS, _loss)


@torch.library.register_fake(CHOICE)
def _shape_of_choice(
    queries: Tensor, keys: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, starts: Tensor, block: int, top: int
) -> Tensor:
    B, T, H, _ = queries.shape
    return queries.new_empty((B, H, T, -(-T // block)), dtype=torch.bool)


@torch.library.register_fake(LOSS)
def _shapes_of_loss(
    q: Tensor, k: Tensor, queries: Tensor, keys: Tensor, weight_q: Tensor, weight_k: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return queries.new_empty(()), torch.empty_like(weight_q), torch.empty_like(weight_k)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.set_materialize_grads(False)  # of the gradients, which nothing differentiates


@once_differentiable
def _gradients(ctx: Any, grad: Tensor | None, of_q: Tensor | None, of_k: Tensor | None) -> tuple[Tensor | None, ...]:
    """The weights' alone: neither attention nor what is below it learns from the gate."""
    if grad is None:
        return (None,) * 10
    d_q, d_k = (grad * saved for saved in ctx.saved_tensors)
    return None, None, None, None, d_q, d_k, None, None, None, None


torch.library.register_autograd(LOSS, _gradients, setup_context=_keep)
choice = torch.ops.tokenmill.block_choice.default
gate_loss = torch.ops.tokenmill.block_gate_loss.default
