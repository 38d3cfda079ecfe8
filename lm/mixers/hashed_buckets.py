"""Attention within buckets of a hash: a query sees those keys before it that fall where it falls (Pagliardini et al. 2023,
"Faster Causal Attention Over Large Sequences Through Sparse Flash Attention", arXiv:2306.01160, section 3.2).

The bucket of a vector is the largest of [x R, -x R], R being random and the same for queries and keys, as in Reformer
(Kitaev et al. 2020, arXiv:2001.04451): vectors that point alike share one. What is seen follows from the vectors; the
softmax over it is exact.

Differs from the paper: vectors are hashed as they are before norm and rotation, since a bucket would otherwise depend on where
in a row its document begins; there is one round of hashing, and no query or key is dropped (the paper's section 3.1); a query
whose bucket has no key yet gets 0.

Letters as in lm/mixers/attention.py; R rotations, and 2 R buckets.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from kernels.block_attention.hashed import hashed_attention
from kernels.projections import projections
from lm.context import Context
from lm.mixers.attention import Attention, Heads, KeysAndValues, over_slots
from lm.mixers.base import Mixer
from lm.mixers.blocks import starts_of
from lm.parts import Part
from lm.quantized.inputs import Rounding
from lm.shape import Shape

SEED = 0
BLOCK = 64  # tokens of a tile


def buckets_of(x_BTHE: Tensor, planes_ER: Tensor) -> Tensor:
    """buckets_BTH, from 0 to 2 R."""
    along_BTHR = x_BTHE @ planes_ER.to(x_BTHE.dtype)
    return torch.cat((along_BTHR, -along_BTHR), -1).argmax(-1)


class Hashed(KeysAndValues):
    """Keys and values, and the bucket of each key."""

    def __init__(self, shape: Shape, rows: int, slots: int, device: torch.device | None, dtype: torch.dtype) -> None:
        super().__init__(shape, rows, slots, device, dtype)
        self.buckets_BKC = torch.zeros((rows, shape.kv_heads, slots), device=device, dtype=torch.int32)

    def take(self, rows: Tensor, other: "Hashed", theirs: Tensor) -> None:  # type: ignore[override]
        """Have these rows begin as those of another state, whose capacity is no larger."""
        super().take(rows, other, theirs)
        self.buckets_BKC[rows, :, : other.buckets_BKC.shape[2]] = other.buckets_BKC[theirs]


class HashedHeads(Heads):
    """context.shared: starts_BT of documents."""

    planes_ER: Tensor

    def __init__(self, shape: Shape, rotations: int) -> None:
        super().__init__(shape)
        generator = torch.Generator().manual_seed(SEED)
        drawn = torch.randn(shape.head_dim, rotations, generator=generator, device="cpu")
        self.register_buffer("planes_ER", drawn.to(self.output.weight.device), persistent=False)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        B, T, _ = x_BTD.shape
        made = projections(x_BTD, (self.query, self.key, self.value))
        q, k, v = self.rotated_heads(made, context)
        wide = torch.promote_types(x_BTD.dtype, torch.float32)
        with torch.no_grad(), torch.autocast(x_BTD.device.type, enabled=False):
            plain = (x.to(wide).view(B, T, -1, self.head_width) for x in made[:2])
            of_q, of_k = (buckets_of(x, self.planes_ER) for x in plain)
        if context.state is not None:
            self.keep(k, v, of_k, context)
        if context.state is None or context.first:
            seen = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            mixed = hashed_attention(*seen, context.shared, of_q, of_k, BLOCK)
        else:
            mixed = self.behind(q, of_q, context)
        return self.output(mixed.reshape(B, T, -1))

    def keep(self, k_BKTE: Tensor, v_BKTE: Tensor, of_k_BTK: Tensor, context: Context) -> None:
        """Put these tokens into the state."""
        assert context.positions_BT is not None
        slots_BKT = context.positions_BT[:, None].expand(k_BKTE.shape[:3])
        for kept, came in ((context.state.keys_BKCE, k_BKTE), (context.state.values_BKCE, v_BKTE)):
            kept.scatter_(2, slots_BKT[..., None].expand_as(came), came.to(kept.dtype))
        context.state.buckets_BKC.scatter_(2, slots_BKT, of_k_BTK.transpose(1, 2).to(torch.int32))

    def behind(self, q_BHTE: Tensor, of_q_BTH: Tensor, context: Context) -> Tensor:
        """mixed_BTHE of tokens over the slots of a state that holds them, too."""
        state, positions_BT = context.state, context.positions_BT
        assert positions_BT is not None
        slots_C = torch.arange(state.keys_BKCE.shape[2], device=q_BHTE.device)
        buckets_BHC = state.buckets_BKC.repeat_interleave(self.heads // self.kv_heads, 1)
        visible_BHTC = of_q_BTH.transpose(1, 2)[..., None] == buckets_BHC[:, :, None]
        visible_BHTC &= slots_C <= positions_BT[:, None, :, None]
        visible = visible_BHTC.reshape(len(q_BHTE), self.kv_heads, -1, len(slots_C))
        mixed_BTHE = over_slots(q_BHTE, state.keys_BKCE, state.values_BKCE, visible)
        # torch's CPU kernel gives 0 there, too (2.13); no kernel promises it
        none_BTH1 = ~visible_BHTC.any(-1).transpose(1, 2)[..., None]
        return mixed_BTHE.masked_fill(none_BTH1, 0.0)


class HashedBuckets(Attention):
    both_ways = False
    name: Literal["hashed_buckets"] = "hashed_buckets"  # type: ignore[assignment]
    rotations: int = Field(4, gt=0, description="of the hash, which has twice as many buckets")

    def build(self, shape: Shape) -> HashedHeads:
        return HashedHeads(shape, self.rotations)

    def flops(self, shape: Shape, length: int) -> float:
        """FLOP of attention to the keys of a bucket, all having as many, and of the hash."""
        hashed = 2.0 * (shape.heads + shape.kv_heads) * shape.head_dim * self.rotations
        return 12.0 * shape.heads * shape.head_dim * (length + 1) / 2 / (2 * self.rotations) + hashed

    def state(self, shape: Shape, rows: int, capacity: int, device: torch.device | None, dtype: torch.dtype) -> Hashed:
        return Hashed(shape, rows, capacity, device, dtype)

    def rounded_state(
        self, shape: Shape, rows: int, capacity: int, device: torch.device | None, rounding: Rounding
    ) -> Any:
        return Mixer.rounded_state(self, shape, rows, capacity, device, rounding)

    def state_numel(self, shape: Shape, tokens: float) -> float:
        return (2 * shape.head_dim + 1) * shape.kv_heads * tokens

    def prepare(self, shape: Shape, context: Context, rows: int, length: int) -> Tensor:
        return starts_of(context, rows, length)

    def hugging_face_config(self, shape: Shape) -> dict[str, Any]:
        return Part.hugging_face_config(self, shape)
