"""S2-Attention: each head sees its own stride of the blocks before, so that heads together see all of them (Lin et al. 2024,
"Efficient LLM Training and Serving with Heterogeneous Context Sharding among Attention Heads", arXiv:2407.17678, section 3).

Query head h, in block i of its document, sees block j where i - j < local (a band that all heads have) or j mod stride is
h mod stride (its shard), and there every token up to its own. With no more classes than heads every block is some head's. A
block that a head no longer sees never comes back, so a state forgets it: a key head keeps the band, and behind it the shards
of its query heads alone.

Differs from the paper: all layers are alike unless a `pattern` says otherwise, where the paper keeps some of them dense; query
heads of one key head have shards of their own, too, so that also a model with one key head is sharded, and its state keeps
all; there is no kernel of a GPU: the same gathered products run there, too.

Letters as in lm/mixers/attention.py, those of a state as in lm/mixers/shards.py; C blocks.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from kernels.block_attention import block_attention
from lm.context import Context
from lm.mixers.attention import Attention, Heads, KeysAndValues, over_slots
from lm.mixers.base import Mixer
from lm.mixers.blocks import starts_of
from lm.mixers.shards import Room, Shards, kept_in, places_behind
from lm.parts import Part
from lm.quantized.inputs import Rounding
from lm.shape import Shape


def shards_of(heads: int, stride: int) -> Tensor:
    """classes_H: which blocks, by their numbers mod stride, are each head's."""
    return torch.arange(heads) % stride


def kept_blocks(classes_H: Tensor, stride: int, local: int, blocks: int) -> Tensor:
    """kept_HCC: whether a head sees, from a block of queries (second axis), a block of keys (third), of so many; none behind
    its own."""
    numbers_C = torch.arange(blocks, device=classes_H.device)
    behind_CC = numbers_C[:, None] - numbers_C
    own_HC = numbers_C % stride == classes_H[:, None]
    return (behind_CC >= 0) & ((behind_CC < local) | own_HC[:, None])


class StridedHeads(Heads):
    """context.shared is what StridedBlocks.prepare gives."""

    def __init__(self, shape: Shape, block: int) -> None:
        super().__init__(shape)
        self.block = block

    def mix_sequences(self, q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, context: Context) -> Tensor:
        (starts_BT, kept_HCC), _ = context.shared
        q, k, v = (x.transpose(1, 2) for x in (q_BHTE, k_BKTE, v_BKTE))
        return block_attention(q, k, v, starts_BT, kept_HCC, self.block)

    def after(self, q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, context: Context) -> Tensor:
        seen, source_BKC = context.shared
        state = kept_in(context.state)
        both = []
        for kept, came in ((state.keys_BKCE, k_BKTE), (state.values_BKCE, v_BKTE)):
            both.append(torch.cat((kept, came.to(kept.dtype)), 2))
            kept.copy_(both[-1].gather(2, source_BKC[..., None].expand_as(kept)))
        if isinstance(seen, tuple):  # the first tokens of all rows, which see each other alone
            return self.mix_sequences(q_BHTE, k_BKTE, v_BKTE, context)
        return over_slots(q_BHTE, both[0], both[1], seen)


class StridedBlocks(Attention):
    both_ways = False
    heads_alike = False
    name: Literal["strided_blocks"] = "strided_blocks"  # type: ignore[assignment]
    block: int = Field(32, gt=0, description="tokens of a block, counted from a document's first")
    local: int = Field(1, gt=0, description="blocks that every head sees, the token's own and those just before it")
    stride: int | None = Field(
        None, gt=1, description="of the blocks before, a head sees one in so many; null: in its heads"
    )

    def build(self, shape: Shape) -> StridedHeads:
        return StridedHeads(shape, self.block)

    def check(self, shape: Shape, index: int) -> None:
        """Raises ValueError where heads together would not see all, or each alone would."""
        super().check(shape, index)
        if not 1 < self._classes(shape) <= shape.heads:
            raise ValueError(
                f"strided_blocks: {shape.heads} heads cannot see one block in {self._classes(shape)} each and all together: "
                "stride is from 2 to as many as there are heads"
            )

    def _classes(self, shape: Shape) -> int:
        return self.stride or shape.heads

    def _of_key_heads(self, shape: Shape) -> Tensor:
        """classes_KU: of each key head, those that its query heads see, in order."""
        by_head = shards_of(shape.heads, self._classes(shape)).view(shape.kv_heads, -1)
        return by_head[:, : self._classes(shape)].sort(1).values

    def _left(self, shape: Shape) -> float:
        """Share of the tokens behind the band that a key head keeps."""
        return min(shape.heads // shape.kv_heads / self._classes(shape), 1.0)

    def flops(self, shape: Shape, length: int) -> float:
        """FLOP of attention to the keys that a token sees on average, the band having its mean width."""
        band = (self.local - 1) * self.block + (self.block + 1) / 2
        beyond = max(length - band, 0.0)
        mean = (length + 1) / 2 - (1 - 1 / self._classes(shape)) * beyond * (beyond + 1) / (2 * length)
        return 12.0 * shape.heads * shape.head_dim * mean

    def state(self, shape: Shape, rows: int, capacity: int, device: torch.device | None, dtype: torch.dtype) -> Any:
        band = self.local * self.block
        if capacity <= band:
            return KeysAndValues(shape, rows, capacity, device, dtype)
        strides = -(-(capacity - band) // (self.block * self._classes(shape)))
        behind = strides * self._of_key_heads(shape).shape[1] * self.block
        return Shards(KeysAndValues(shape, rows, band + behind, device, dtype))

    def rounded_state(
        self, shape: Shape, rows: int, capacity: int, device: torch.device | None, rounding: Rounding
    ) -> Any:
        return Mixer.rounded_state(self, shape, rows, capacity, device, rounding)  # a ring is not written by position

    def state_numel(self, shape: Shape, tokens: float) -> float:
        band = min(tokens, self.local * self.block)
        return super().state_numel(shape, band + self._left(shape) * (tokens - band))

    def prepare(self, shape: Shape, context: Context, rows: int, length: int) -> Any:
        """(what tokens see, source_BKC of the slots of a state). They see by starts_BT of documents and kept_HCC, or, behind
        tokens that were read before, by a mask over slots and themselves, for the queries of each key head."""
        device, stride = context.cos.device, self._classes(shape)
        classes_H = shards_of(shape.heads, stride).to(device)
        seen: Any = None
        if context.state is None or context.first:
            kept_HCC = kept_blocks(classes_H, stride, self.local, -(-length // self.block))
            seen = starts_of(context, rows, length), kept_HCC
        if context.state is None:
            return seen, None
        assert context.positions_BT is not None and context.lengths_B is not None
        classes_KU = self._of_key_heads(shape).to(device)
        slots = kept_in(context.state).keys_BKCE.shape[2]
        ring = min(self.local * self.block, slots)
        room = Room(ring, places_behind(classes_KU, stride, self.block, slots - ring))
        if seen is None:
            keys_BHJ = room.places(context.lengths_B, context.positions_BT).repeat_interleave(
                shape.heads // shape.kv_heads, 1
            )
            visible_BHTJ = self._visible(context.positions_BT, keys_BHJ, classes_H, stride)
            seen = visible_BHTJ.view(rows, shape.kv_heads, -1, keys_BHJ.shape[2])
        came_B = length if context.counts_B is None else context.counts_B
        return seen, room.source(context.lengths_B, context.lengths_B + came_B)

    def _visible(self, positions_BT: Tensor, keys_BHJ: Tensor, classes_H: Tensor, stride: int) -> Tensor:
        """Mask of tokens at these positions over keys at those, negative where there is none: B x H x T x J."""
        numbers_BHJ = keys_BHJ // self.block
        behind_BHTJ = (positions_BT // self.block)[:, None, :, None] - numbers_BHJ[:, :, None]
        own_BHJ = numbers_BHJ % stride == classes_H[:, None]
        there_BHTJ = (keys_BHJ >= 0)[:, :, None] & (keys_BHJ[:, :, None] <= positions_BT[:, None, :, None])
        return there_BHTJ & ((behind_BHTJ < self.local) | own_BHJ[:, :, None])

    def hugging_face_config(self, shape: Shape) -> dict[str, Any]:
        return Part.hugging_face_config(self, shape)
