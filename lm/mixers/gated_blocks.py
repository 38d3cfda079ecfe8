"""SeerAttention: a small gate predicts which blocks of keys a block of queries will look into, and only these are computed (Gao
et al. 2024, "SeerAttention: Learning Intrinsic Sparse Attention in Your LLMs", arXiv:2410.13276).

In training attention is full, and the gate learns from its map by an auxiliary loss, from which nothing else does (the paper's
self-distillation); in all other passes a block of queries sees its own block and the `top` likeliest of those before. The
gate's matrices begin as the query itself and the mean key, so that scores begin as those of a block's first query with mean
keys; lm/mixers/block_gate.py has the gate, and where it differs from the paper.

Differs from the paper: the gate learns beside the model, from the first step on or whenever its model trains, and not after it;
how many blocks are seen is given, not a threshold.

Letters as in lm/mixers/attention.py; N blocks of a row in a state, C = N blocks of slots; F = 3 E.
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kernels.block_attention import block_attention
from kernels.projections import projections
from kernels.rope import rotate
from lm.context import Context
from lm.mixers.attention import Attention, Heads, KeysAndValues, over_slots
from lm.mixers.base import Mixer
from lm.mixers.block_gate import at, choice, gate_loss, pooled, top_pairs
from lm.mixers.blocks import starts_of
from lm.parts import Part
from lm.quantized.inputs import Rounding
from lm.shape import Shape


class Gate(nn.Module):
    """What is made with matrices of each head for queries, H x E x E, and of each key head for the pooled keys of a block,
    K x F x E: within its pass, so that ranks that share weights out gather them."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        eye = torch.eye(shape.head_dim)
        nothing = torch.zeros_like(eye)
        self.query = nn.Parameter(eye.repeat(shape.heads, 1, 1))
        self.key = nn.Parameter(torch.cat((nothing, nothing, eye)).repeat(shape.kv_heads, 1, 1))

    def forward(self, made: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> Tensor:
        return made(self.query.to(dtype), self.key.to(dtype))


class Gated(KeysAndValues):
    """Keys and values, the keys before norm and rotation, and what the gate makes of blocks; a query's that is no block's first
    stands in a place behind them."""

    def __init__(
        self, shape: Shape, rows: int, capacity: int, block: int, device: torch.device | None, dtype: torch.dtype
    ) -> None:
        blocks = -(-capacity // block)
        super().__init__(shape, rows, blocks * block, device, dtype)
        self.plain_BKCE = torch.zeros_like(self.keys_BKCE)
        wide = torch.promote_types(dtype, torch.float32)
        E = shape.head_dim
        self.gate_keys_BKNE = torch.zeros((rows, shape.kv_heads, blocks, E), device=device, dtype=wide)
        self.gate_queries_BHNE = torch.zeros((rows, shape.heads, blocks + 1, E), device=device, dtype=wide)

    def take(self, rows: Tensor, other: "Gated", theirs: Tensor) -> None:  # type: ignore[override]
        """Have these rows begin as those of another state, whose capacity is no larger."""
        super().take(rows, other, theirs)
        self.plain_BKCE[rows, :, : other.plain_BKCE.shape[2]] = other.plain_BKCE[theirs]
        blocks = other.gate_keys_BKNE.shape[2]
        self.gate_keys_BKNE[rows, :, :blocks] = other.gate_keys_BKNE[theirs]
        self.gate_queries_BHNE[rows, :, :blocks] = other.gate_queries_BHNE[theirs, :, :blocks]


class GatedHeads(Heads):
    """(y_BTD, the gate's loss) in training, else y_BTD. context.shared: starts_BT of documents."""

    def __init__(self, shape: Shape, block: int, top: int, weight: float) -> None:
        super().__init__(shape)
        self.block, self.top, self.loss_weight = block, top, weight
        self.predictor = Gate(shape)

    def forward(self, x_BTD: Tensor, context: Context) -> Any:
        B, T, _ = x_BTD.shape
        made = projections(x_BTD, (self.query, self.key, self.value))
        q, k, v = self.rotated_heads(made, context)
        wide = torch.promote_types(x_BTD.dtype, torch.float32)
        plain_q, plain_k = (x.detach().to(wide).view(B, T, -1, self.head_width) for x in made[:2])
        loss = None
        if self.training and context.state is None:
            mixed = super().mix_sequences(q, k, v, context)
            if torch.is_grad_enabled():
                seen = q.detach().transpose(1, 2), k.detach().transpose(1, 2), plain_q, plain_k
                turn = context.cos, context.sin, context.shared, self.block
                loss = self.loss_weight * self.predictor(
                    lambda query, key: gate_loss(*seen, query, key, *turn)[0], wide
                )
        else:
            with torch.no_grad(), torch.autocast(x_BTD.device.type, enabled=False):
                kept = self.predictor(
                    lambda query, key: self.select_blocks(plain_q, plain_k, query, key, context), wide
                )
            mixed = (self.within if context.state is None or context.first else self.behind)(q, k, v, context, kept)
        y_BTD = self.output(mixed.reshape(B, T, -1))
        return y_BTD if loss is None else (y_BTD, loss)

    def select_blocks(
        self, plain_q: Tensor, plain_k: Tensor, weight_HEE: Tensor, weight_KFE: Tensor, context: Context
    ) -> Tensor:
        """Blocks that tokens see: kept_BHTC as block_attention has it, or behind tokens that were read before kept_BHTN."""
        queries_BTHE = rotate(plain_q.transpose(1, 2) @ weight_HEE, context.cos, context.sin).transpose(1, 2)
        if context.state is not None:
            self.keep(queries_BTHE, plain_k, weight_KFE, context)
        if context.state is None or context.first:
            turn = context.cos, context.sin
            return choice(queries_BTHE, plain_k, weight_KFE, *turn, context.shared, self.block, self.top)
        assert context.positions_BT is not None
        state, own_BT = context.state, context.positions_BT // self.block
        E = queries_BTHE.shape[-1]
        places = own_BT[:, None, :, None].expand(-1, self.heads, -1, E)
        keys_BHNE = state.gate_keys_BKNE.repeat_interleave(self.heads // self.kv_heads, 1)
        scores_BHTN = state.gate_queries_BHNE.gather(2, places) @ keys_BHNE.mT / math.sqrt(E)
        numbers_N = torch.arange(keys_BHNE.shape[2], device=own_BT.device)
        own_B1T1 = own_BT[:, None, :, None]
        return top_pairs(scores_BHTN, (numbers_N < own_B1T1).expand_as(scores_BHTN), self.top) | (numbers_N == own_B1T1)

    def keep(self, queries_BTHE: Tensor, plain_k: Tensor, weight_KFE: Tensor, context: Context) -> None:
        """Put into the state what the gate needs of these tokens: queries of blocks' first ones, and keys of blocks that they
        complete. What padding leaves there is written anew before it is read."""
        state, positions_BT = context.state, context.positions_BT
        assert positions_BT is not None and context.lengths_B is not None
        B, T, H, E = queries_BTHE.shape
        slots = positions_BT[:, None, :, None].expand(-1, self.kv_heads, -1, E)
        state.plain_BKCE.scatter_(2, slots, plain_k.transpose(1, 2).to(state.plain_BKCE.dtype))
        blocks = state.gate_keys_BKNE.shape[2]
        place_BT = torch.where(positions_BT % self.block == 0, positions_BT // self.block, blocks)
        wide = queries_BTHE.transpose(1, 2).to(state.gate_queries_BHNE.dtype)
        state.gate_queries_BHNE.scatter_(2, place_BT[:, None, :, None].expand(-1, H, -1, E), wide)
        last_N = torch.arange(1, blocks + 1, device=place_BT.device) * self.block - 1
        among_BN = last_N - context.lengths_B[:, None]
        tables = (at(table, among_BN.clamp(0, T - 1)) for table in (context.cos, context.sin))
        plain_BKNbE = state.plain_BKCE.unflatten(2, (blocks, self.block)).to(weight_KFE.dtype)
        keys_BKNE = rotate(pooled(plain_BKNbE) @ weight_KFE, *tables)
        new_B1N1 = ((among_BN >= 0) & (among_BN < T))[:, None, :, None]
        state.gate_keys_BKNE.copy_(
            torch.where(new_B1N1, keys_BKNE.to(state.gate_keys_BKNE.dtype), state.gate_keys_BKNE)
        )

    def within(self, q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, context: Context, kept: Tensor) -> Tensor:
        """mixed_BTHE over kept_BHTC; a state keeps the tokens."""
        if context.state is not None:
            self._store(k_BKTE, v_BKTE, context)
        q, k, v = (x.transpose(1, 2) for x in (q_BHTE, k_BKTE, v_BKTE))
        return block_attention(q, k, v, context.shared, kept, self.block)

    def behind(self, q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, context: Context, kept: Tensor) -> Tensor:
        """mixed_BTHE over kept_BHTN of the slots."""
        B, _, T, _ = q_BHTE.shape
        state, positions_BT = context.state, context.positions_BT
        assert positions_BT is not None
        self._store(k_BKTE, v_BKTE, context)
        slots_C = torch.arange(state.keys_BKCE.shape[2], device=q_BHTE.device)
        visible_BHTC = kept.repeat_interleave(self.block, 3) & (slots_C <= positions_BT[:, None, :, None])
        visible = visible_BHTC.view(B, self.kv_heads, -1, len(slots_C))
        return over_slots(q_BHTE, state.keys_BKCE, state.values_BKCE, visible)

    def _store(self, k_BKTE: Tensor, v_BKTE: Tensor, context: Context) -> None:
        assert context.positions_BT is not None
        slots = context.positions_BT[:, None, :, None].expand_as(k_BKTE)
        for kept, came in ((context.state.keys_BKCE, k_BKTE), (context.state.values_BKCE, v_BKTE)):
            kept.scatter_(2, slots, came.to(kept.dtype))


class GatedBlocks(Attention):
    both_ways = False
    trained_otherwise: ClassVar[bool] = True
    name: Literal["gated_blocks"] = "gated_blocks"  # type: ignore[assignment]
    block: int = Field(32, gt=0, description="tokens of a block, counted from a document's first")
    top: int = Field(2, gt=0, description="blocks before its own that a block of queries sees, but in training")
    weight: float = Field(1.0, gt=0, description="of the gate's loss, from which nothing else learns")

    def build(self, shape: Shape) -> GatedHeads:
        return GatedHeads(shape, self.block, self.top, self.weight)

    def flops(self, shape: Shape, length: int) -> float:
        """FLOP in training: full attention, its map once more, and the gate's products forward and backward."""
        width, heads = shape.head_dim, shape.heads
        seen, pairs = (length + 1) / 2, (length / self.block + 1) / 2
        gate = 6.0 * (heads + 3 * shape.kv_heads) * width**2 + 6.0 * heads * width * pairs
        return 14.0 * heads * width * seen + gate / self.block

    def state(self, shape: Shape, rows: int, capacity: int, device: torch.device | None, dtype: torch.dtype) -> Gated:
        return Gated(shape, rows, capacity, self.block, device, dtype)

    def rounded_state(
        self, shape: Shape, rows: int, capacity: int, device: torch.device | None, rounding: Rounding
    ) -> Any:
        return Mixer.rounded_state(self, shape, rows, capacity, device, rounding)

    def state_numel(self, shape: Shape, tokens: float) -> float:
        each = 3 * shape.kv_heads + (shape.heads + shape.kv_heads) / self.block
        return each * shape.head_dim * tokens

    def prepare(self, shape: Shape, context: Context, rows: int, length: int) -> Tensor:
        return starts_of(context, rows, length)

    def hugging_face_config(self, shape: Shape) -> dict[str, Any]:
        return Part.hugging_face_config(self, shape)
