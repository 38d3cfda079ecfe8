"""Attention with grouped queries (arXiv:2305.13245), rotary positions, and QK-norm (arXiv:2302.05442) as an option;
causal, but where the shape is not.

Letters as in lm/shape.py; C slots of a row in a state.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.attention import attention
from kernels.attention.both_ways import attention_both_ways, document_mask
from kernels.decode_attention import decode_attention
from kernels.norm_rope import norm_rotate
from kernels.projections import projections
from kernels.rope import rotate
from lm.config import ConfigError
from lm.context import Context, autocast_dtype
from lm.mixers.base import Mixer
from lm.quantized.inputs import Rounding, dequantize, quantize
from lm.shape import MASKED, Shape


class HeadNorm(nn.Module):
    """y_BHTE: x_BTHE normed over E and turned by its position."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x_BTHE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return norm_rotate(x_BTHE, self.weight, cos, sin, self.eps)


class Rotated(nn.Module):
    """y_BHTE: x_BTHE turned by its position, without a norm."""

    def forward(self, x_BTHE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return rotate(x_BTHE.transpose(1, 2), cos, sin)


class KeysAndValues:
    """Keys and values of one layer, a slot a token: row b has context.lengths_B[b] of them, in its first slots, whatever stands
    in the others."""

    def __init__(self, shape: Shape, rows: int, slots: int, device: torch.device | None, dtype: torch.dtype) -> None:
        size = (rows, shape.kv_heads, slots, shape.head_dim)
        self.keys_BKCE = torch.zeros(size, device=device, dtype=dtype)
        self.values_BKCE = torch.zeros(size, device=device, dtype=dtype)

    def take(self, rows: Tensor, other: "KeysAndValues", theirs: Tensor) -> None:
        """Have these rows begin as those of another state, whose capacity is no larger."""
        slots = other.keys_BKCE.shape[2]
        self.keys_BKCE[rows, :, :slots] = other.keys_BKCE[theirs]
        self.values_BKCE[rows, :, :slots] = other.values_BKCE[theirs]


class RoundedKeysAndValues:
    """Keys and values of one layer in whole numbers, each head's of a token by a step of its own, or by one for each group of
    its numbers: little more than a byte for each, in place of two or four. Tokens see what they will be remembered as."""

    def __init__(self, shape: Shape, rows: int, slots: int, device: torch.device | None, rounding: Rounding) -> None:
        self.rounding, self._width = rounding, shape.head_dim
        groups = -(-shape.head_dim // (rounding.group or shape.head_dim))
        size = (2, rows, shape.kv_heads, slots)
        self.codes_2BKCE = torch.zeros((*size, shape.head_dim), device=device, dtype=torch.int8)
        self.steps_2BKCN = torch.zeros((*size, groups), device=device)

    def take(self, rows: Tensor, other: "RoundedKeysAndValues", theirs: Tensor) -> None:
        """Have these rows begin as those of another state, whose capacity is no larger."""
        slots = other.codes_2BKCE.shape[3]
        self.codes_2BKCE[:, rows, :, :slots] = other.codes_2BKCE[:, theirs]
        self.steps_2BKCN[:, rows, :, :slots] = other.steps_2BKCN[:, theirs]

    def with_tokens(self, k_BKTE: Tensor, v_BKTE: Tensor, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Keep these at their positions; (keys_BKCE, values_BKCE) of all slots, in the dtype of the tokens."""
        codes, steps = quantize(torch.stack((k_BKTE, v_BKTE)), self.rounding)
        for kept, came in ((self.codes_2BKCE, codes), (self.steps_2BKCN, steps)):
            kept.scatter_(3, positions_BT[None, :, None, :, None].expand_as(came), came)
        keys_BKCE, values_BKCE = dequantize(self.codes_2BKCE, self.steps_2BKCN, self.rounding).to(k_BKTE.dtype)
        return keys_BKCE, values_BKCE


def over_slots(q_BHTE: Tensor, keys_BKCE: Tensor, values_BKCE: Tensor, visible_B1QC: Tensor) -> Tensor:
    """mixed_BTHE of queries over slots, with a mask for the T queries of each head of a key head's group."""
    B, H, T, E = q_BHTE.shape
    # the G query heads of a key head as rows of one head: torch's enable_gqa leaves the fused CPU path (torch 2.13)
    q = q_BHTE.reshape(B, keys_BKCE.shape[1], -1, E)
    mixed = F.scaled_dot_product_attention(q, keys_BKCE, values_BKCE, attn_mask=visible_B1QC)
    return mixed.reshape(B, H, T, E).transpose(1, 2)


def by_query(visible_BTC: Tensor, shape: Shape) -> Tensor:
    """The mask of `over_slots` for what each token may see."""
    return visible_BTC.repeat(1, shape.heads // shape.kv_heads, 1)[:, None]


class Heads(nn.Module):
    """Projections to heads and back; between them `mix_sequences` mixes whole sequences, and `after` what follows a state."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = shape.heads, shape.kv_heads, shape.head_dim
        self.causal = shape.causal
        self.query = nn.Linear(shape.width, shape.heads * self.head_width, shape.qkv_bias)
        self.key = nn.Linear(shape.width, shape.kv_heads * self.head_width, shape.qkv_bias)
        self.value = nn.Linear(shape.width, shape.kv_heads * self.head_width, shape.qkv_bias)
        self.output = nn.Linear(shape.heads * self.head_width, shape.width, bias=False)
        self.query_norm = HeadNorm(self.head_width, shape.norm_eps) if shape.qk_norm else Rotated()
        self.key_norm = HeadNorm(self.head_width, shape.norm_eps) if shape.qk_norm else Rotated()

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        B, T, _ = x_BTD.shape
        q, k, v = self.rotated_heads(projections(x_BTD, (self.query, self.key, self.value)), context)
        mix = self.mix_sequences if context.state is None else self.after
        return self.output(mix(q, k, v, context).reshape(B, T, -1))

    def rotated_heads(self, projected: Sequence[Tensor], context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """(q_BHTE, k_BKTE, v_BKTE) of the three projections of a pass, queries and keys turned by their positions."""
        q, k, v = projected
        B, T, _ = q.shape
        q = self.query_norm(q.view(B, T, self.heads, self.head_width), context.cos, context.sin)
        k = self.key_norm(k.view(B, T, self.kv_heads, self.head_width), context.cos, context.sin)
        if context.values is not None:
            v = context.values[0] * v + context.values[1].to(v.dtype)
        return q, k, v.view(B, T, self.kv_heads, self.head_width).transpose(1, 2)

    def mix_sequences(self, q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, context: Context) -> Tensor:
        """mixed_BTHE of whole sequences."""
        q, k, v = (x.transpose(1, 2) for x in (q_BHTE, k_BKTE, v_BKTE))
        if not self.causal:
            return attention_both_ways(q, k, v, context.shared)
        return attention(q, k, v, context.documents)

    def after(self, q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, context: Context) -> Tensor:
        """mixed_BTHE of tokens over themselves and all before them in their row; their keys and values are kept."""
        T = k_BKTE.shape[2]
        assert context.lengths_B is not None and context.positions_BT is not None
        if isinstance(context.state, RoundedKeysAndValues):
            keys_BKCE, values_BKCE = context.state.with_tokens(k_BKTE, v_BKTE, context.positions_BT)
            return over_slots(q_BHTE, keys_BKCE, values_BKCE, context.shared)
        keys_BKCE, values_BKCE = context.state.keys_BKCE, context.state.values_BKCE
        if context.shared is None and T == 1:
            q_BHE, k_BKE, v_BKE = (x.squeeze(2) for x in (q_BHTE, k_BKTE, v_BKTE))
            return decode_attention(q_BHE, k_BKE, v_BKE, keys_BKCE, values_BKCE, context.lengths_B).unsqueeze(1)
        if context.shared is None:
            keys_BKCE[:, :, :T], values_BKCE[:, :, :T] = k_BKTE, v_BKTE
            return attention(q_BHTE.transpose(1, 2), k_BKTE.transpose(1, 2), v_BKTE.transpose(1, 2), None)
        slots = context.positions_BT[:, None, :, None].expand_as(k_BKTE)
        keys_BKCE.scatter_(2, slots, k_BKTE.to(keys_BKCE.dtype))
        values_BKCE.scatter_(2, slots, v_BKTE.to(values_BKCE.dtype))
        return over_slots(q_BHTE, keys_BKCE, values_BKCE, context.shared)


class Attention(Mixer):
    name: Literal["attention"] = "attention"
    has_values = True
    both_ways = True
    into_stream = ("output",)
    hugging_face = {
        "query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj", "output": "self_attn.o_proj",
        "query_norm": "self_attn.q_norm", "key_norm": "self_attn.k_norm",
    }  # fmt: skip

    def build(self, shape: Shape) -> Heads:
        return Heads(shape)

    def flops(self, shape: Shape, length: int) -> float:
        """FLOP of half the attention of PaLM's count (arXiv:2204.02311, appendix B): the mask leaves that. All of it where the
        shape is not causal."""
        return (6.0 if shape.causal else 12.0) * shape.heads * shape.head_dim * length

    def state(
        self, shape: Shape, rows: int, capacity: int, device: torch.device | None, dtype: torch.dtype
    ) -> KeysAndValues:
        """Raises ConfigError where the shape is not causal: of a row that grows every token is another one."""
        if not shape.causal:
            raise ConfigError(MASKED)
        return KeysAndValues(shape, rows, capacity, device, dtype)

    def rounded_state(
        self, shape: Shape, rows: int, capacity: int, device: torch.device | None, rounding: Rounding
    ) -> RoundedKeysAndValues:
        if not shape.causal:
            raise ConfigError(MASKED)
        return RoundedKeysAndValues(shape, rows, capacity, device, rounding)

    def state_numel(self, shape: Shape, tokens: float) -> float:
        return 2 * shape.kv_heads * shape.head_dim * tokens

    def prepare(self, shape: Shape, context: Context, rows: int, length: int) -> Tensor | None:
        """The mask of tokens over the slots of a state. None where a GPU's kernels need none: a token follows, or the tokens
        are the first; and without a state, but for documents in which tokens see both ways."""
        state, positions_BT = context.state, context.positions_BT
        if not shape.causal and context.documents is not None:
            products = autocast_dtype(context.cos) or context.cos.dtype
            return document_mask(context.documents, rows, length, products)
        if state is None or positions_BT is None:
            return None
        if isinstance(state, RoundedKeysAndValues):
            slots = state.codes_2BKCE.shape[3]
        elif state.keys_BKCE.is_cuda and (length == 1 or context.first):
            return None
        else:
            slots = state.keys_BKCE.shape[2]
        return by_query(torch.arange(slots, device=positions_BT.device) <= positions_BT[..., None], shape)

    def hugging_face_config(self, shape: Shape) -> dict[str, Any]:
        return {"layer_type": "full_attention"}
