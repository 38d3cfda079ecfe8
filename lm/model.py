"""The language model: a decoder in the manner of Llama.

RMSNorm before each block, rotary positions, SwiGLU (arXiv:2002.05202), grouped-query attention (arXiv:2305.13245); QK-norm
(arXiv:2302.05442), biases of query, key and value, and tied embeddings are options. Llama 2 and 3, Qwen 2 and 3 and SmolLM are
settings of it: lm/hugging_face/load.py reads and writes theirs.
Letters: B batch, T time, D width, H query heads, K key/value heads, E head width, V vocabulary.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kernels.add_norm import add_norm
from kernels.attention import attention
from kernels.attention.documents import Documents, documents_of
from kernels.decode_attention import decode_attention
from kernels.norm_rope import norm_rotate
from kernels.projections import projections
from kernels.rms_norm import rms_norm
from kernels.rope import rotate
from kernels.swiglu import swiglu
from lm.config import Config
from lm.rope import Scaling, turns


class ModelConfig(Config):
    """The shape of a decoder."""

    vocab_size: int = Field(0, ge=0, description="0: as many as the tokenizer has")
    width: int = Field(160, gt=0)
    layers: int = Field(6, gt=0)
    heads: int = Field(5, gt=0)
    kv_heads: int = Field(1, gt=0, description="heads must be a multiple of it")
    head_width: int = Field(0, ge=0, description="even; 0: width / heads")
    ffn_width: int = Field(432, gt=0)
    context: int = Field(256, gt=1, description="longest sequence in tokens")
    rope_theta: float = Field(10_000.0, gt=0)
    rope_scaling: Scaling | None = None
    norm_eps: float = Field(1e-6, gt=0)
    qk_norm: bool = True
    qkv_bias: bool = Field(False, description="of query, key and value, as in Qwen 2")
    tied: bool = Field(True, description="the output head is the embedding")

    @model_validator(mode="after")
    def _divides(self) -> "ModelConfig":
        if self.heads % self.kv_heads:
            raise ValueError("heads must be a multiple of kv_heads")
        if self.head_width % 2 or (not self.head_width and (self.width % self.heads or self.width // self.heads % 2)):
            raise ValueError("width must be a multiple of heads with an even quotient, or head_width given, and even")
        return self

    @property
    def each_head(self) -> int:
        """The width of one head."""
        return self.head_width or self.width // self.heads


class Cache:
    """Keys and values of the tokens seen so far, for rows of up to `capacity` tokens each: row b has lengths_B[b] of them, in
    its first slots, whatever stands in the others. Raises ValueError for a capacity beyond the model's context."""

    def __init__(
        self,
        config: ModelConfig,
        rows: int,
        capacity: int,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if capacity > config.context:
            raise ValueError(f"a cache of {capacity} tokens is longer than the model's context of {config.context}")
        shape = (config.layers, rows, config.kv_heads, capacity, config.each_head)
        self.keys_LBKCE = torch.zeros(shape, device=device, dtype=dtype)
        self.values_LBKCE = torch.zeros(shape, device=device, dtype=dtype)
        self.lengths_B = torch.zeros(rows, dtype=torch.int64, device=device)
        self.capacity = capacity
        self._group, self._fresh = config.heads // config.kv_heads, True

    def expect(self, T: int) -> tuple[Tensor, Tensor | None]:
        """(positions_BT, mask_B1QC) of the next T tokens of each row, which `attend` puts there, layer by layer; C slots, of
        each key head the T queries of each head of its group. No mask where a GPU's kernels need none: a token follows, or
        the T tokens are the first."""
        positions_BT = self.lengths_B[:, None] + torch.arange(T, device=self.lengths_B.device)
        bare, self._fresh = self.keys_LBKCE.is_cuda and (T == 1 or self._fresh), False
        self._positions_BT = positions_BT
        if bare:
            return positions_BT, None
        visible_BTC = torch.arange(self.capacity, device=positions_BT.device) <= positions_BT[..., None]
        return positions_BT, visible_BTC.repeat(1, self._group, 1)[:, None]

    def attend(self, layer: int, q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, mask: Tensor | None) -> Tensor:
        """mixed_BTHE of the expected tokens, over themselves and all before them in their row; keys and values are kept."""
        keys_BKCE, values_BKCE = self.keys_LBKCE[layer], self.values_LBKCE[layer]
        B, K, T, E = k_BKTE.shape
        if mask is None and T == 1:
            q_BHE, k_BKE, v_BKE = (x.squeeze(2) for x in (q_BHTE, k_BKTE, v_BKTE))
            return decode_attention(q_BHE, k_BKE, v_BKE, keys_BKCE, values_BKCE, self.lengths_B).unsqueeze(1)
        if mask is None:
            keys_BKCE[:, :, :T], values_BKCE[:, :, :T] = k_BKTE, v_BKTE
            return attention(q_BHTE.transpose(1, 2), k_BKTE.transpose(1, 2), v_BKTE.transpose(1, 2), None)
        slots = self._positions_BT[:, None, :, None].expand_as(k_BKTE)
        keys_BKCE.scatter_(2, slots, k_BKTE.to(keys_BKCE.dtype))
        values_BKCE.scatter_(2, slots, v_BKTE.to(values_BKCE.dtype))
        # the G query heads of a key head as rows of one head: torch's enable_gqa leaves the fused CPU path (torch 2.13)
        q = q_BHTE.reshape(B, K, -1, E)
        mixed = F.scaled_dot_product_attention(q, keys_BKCE, values_BKCE, attn_mask=mask)
        return mixed.reshape(B, -1, T, E).transpose(1, 2)

    def take(self, rows: Tensor, other: "Cache", theirs: Tensor) -> None:
        """Have these rows begin as those of another cache, whose capacity is no larger."""
        # a layer at a time: what is taken lies twice in memory meanwhile
        for keys, values, other_keys, other_values in zip(
            self.keys_LBKCE, self.values_LBKCE, other.keys_LBKCE, other.values_LBKCE, strict=True
        ):
            keys[rows, :, : other.capacity] = other_keys[theirs]
            values[rows, :, : other.capacity] = other_values[theirs]
        self.lengths_B[rows] = other.lengths_B[theirs]


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Dtype of products of x under autocast now; None without autocast."""
    return torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else None


class Norm(nn.Module):
    """A weight a column, for what norms its input; letters as above."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def normed(self, x: Tensor) -> Tensor:
        """x / rms(x) * weight, arXiv:1910.07467. On a GPU in the dtype of the products that read it, which would each cast
        it."""
        return rms_norm(x, self.weight, self.eps, autocast_dtype(x) if x.is_cuda else None)


class RMSNorm(Norm):
    """The norm of x."""

    def forward(self, x: Tensor) -> Tensor:
        return self.normed(x)


class StreamNorm(Norm):
    """(x + more, the norm of that sum); without more, x and its norm."""

    def forward(self, x: Tensor, more: Tensor | None) -> tuple[Tensor, Tensor]:
        if more is None:
            return x, self.normed(x)
        return add_norm(x, more, self.weight, self.eps, autocast_dtype(x) if x.is_cuda else None)


class HeadNorm(Norm):
    """y_BHTE: x_BTHE normed over E and turned by its position."""

    def forward(self, x_BTHE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return norm_rotate(x_BTHE, self.weight, cos, sin, self.eps)


class Turned(nn.Module):
    """y_BHTE: x_BTHE turned by its position, without a norm."""

    def forward(self, x_BTHE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return rotate(x_BTHE.transpose(1, 2), cos, sin)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = config.heads, config.kv_heads, config.each_head
        self.query = nn.Linear(config.width, config.heads * self.head_width, config.qkv_bias)
        self.key = nn.Linear(config.width, config.kv_heads * self.head_width, config.qkv_bias)
        self.value = nn.Linear(config.width, config.kv_heads * self.head_width, config.qkv_bias)
        self.output = nn.Linear(config.heads * self.head_width, config.width, bias=False)
        self.query_norm = HeadNorm(self.head_width, config.norm_eps) if config.qk_norm else Turned()
        self.key_norm = HeadNorm(self.head_width, config.norm_eps) if config.qk_norm else Turned()

    def forward(
        self,
        x_BTD: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache: Cache | None,
        layer: int,
        mask: Tensor | None,
        documents: Documents | None,
    ) -> Tensor:
        B, T, _ = x_BTD.shape
        q, k, v = projections(x_BTD, (self.query, self.key, self.value))
        q = self.query_norm(q.view(B, T, self.heads, self.head_width), cos, sin)
        k = self.key_norm(k.view(B, T, self.kv_heads, self.head_width), cos, sin)
        v = v.view(B, T, self.kv_heads, self.head_width).transpose(1, 2)
        if cache is None:
            mixed_BTHE = attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), documents)
            return self.output(mixed_BTHE.reshape(B, T, -1))
        return self.output(cache.attend(layer, q, k, v, mask).reshape(B, T, -1))


class FeedForward(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.ffn_width, bias=False)
        self.up = nn.Linear(config.width, config.ffn_width, bias=False)
        self.down = nn.Linear(config.ffn_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = projections(x, (self.gate, self.up))
        return self.down(swiglu(gate, up))


class Block(nn.Module):
    """(x, waiting) -> (x, waiting): the residual stream, and what the last block made, which is added to it where it is read
    next, in one kernel with a norm. None waits where there is no such kernel: the sum is then made at once."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm, self.attention = StreamNorm(config.width, config.norm_eps), Attention(config)
        self.ffn_norm, self.ffn = StreamNorm(config.width, config.norm_eps), FeedForward(config)

    def forward(
        self,
        x: Tensor,
        waiting: Tensor | None,
        cos: Tensor,
        sin: Tensor,
        cache: Cache | None,
        layer: int,
        mask: Tensor | None,
        documents: Documents | None,
    ) -> tuple[Tensor, Tensor | None]:
        x, normed = self.attention_norm(x, waiting)
        x, normed = self.ffn_norm(x, self.attention(normed, cos, sin, cache, layer, mask, documents))
        more = self.ffn(normed)
        return (x + more, None) if waiting is None else (x, more)


class Decoder(nn.Module):
    """The model. `seed` decides the initial weights, whatever else uses torch's generator."""

    cos_TE: Tensor
    sin_TE: Tensor

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_eps)
        if not config.tied:
            self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        cos_TE, sin_TE = turns(config.rope_theta, config.each_head, config.context, config.rope_scaling)
        self.register_buffer("cos_TE", cos_TE, persistent=False)
        self.register_buffer("sin_TE", sin_TE, persistent=False)
        self.recompute = self.low_stream = False
        self._run: Callable[..., tuple[Tensor, Tensor | None]] = Block.__call__
        self._initialise(seed)

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        """Biases 0; matrices normal, std 0.02, and 1/sqrt(2 layers) of that in the two projections back into the stream, as in
        GPT-2."""
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                into_stream = name.endswith(("attention.output.weight", "ffn.down.weight"))
                weight.normal_(0, 0.02 / (math.sqrt(2 * self.config.layers) if into_stream else 1), generator=generator)
            elif name.endswith(".bias"):
                weight.zero_()

    def compile_blocks(self, wanted: bool) -> None:
        """Whether passes without a cache run compiled: one graph for all blocks, since they differ in weights alone. The
        compiler is held to the same bits each time where torch is."""
        if wanted:
            torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled())
        self._run = torch.compile(Block.__call__) if wanted else Block.__call__

    @property
    def head_weight(self) -> Tensor:
        """weight_VD of the logits."""
        return self.embedding.weight if self.config.tied else self.head.weight

    def forward(self, ids_BT: Tensor, cache: Cache | None = None, bounds: Tensor | None = None) -> Tensor:
        """logits_BTV of what `hidden` gives."""
        return F.linear(self.hidden(ids_BT, cache, bounds), self.head_weight)

    def hidden(self, ids_BT: Tensor, cache: Cache | None = None, bounds: Tensor | None = None) -> Tensor:
        """x_BTD, of which the head makes logits. With a cache, ids are the tokens that follow its rows, which
        grow by them; a row's positions go on from its own length.

        bounds: where documents begin in the B x T tokens, as documents_of has them; attention stays within a document.
        None: a row is one document. Positions go on counting along the row all the same, since rotary attention depends on
        their differences alone.
        Without a cache, and with `recompute` set, the backward makes each block's activations anew from its input, which alone
        is kept (Chen et al. 2016, arXiv:1604.06174). With `low_stream` set, the residual stream has the dtype of autocast.
        Raises ValueError when the sequence is longer than the context, for bounds with a cache, and for bounds that do not fit.
        """
        if cache is not None and bounds is not None:
            raise ValueError("a cache holds one document a row: give bounds to a forward without a cache")
        B, T = ids_BT.shape
        if self.config.context < T:
            raise ValueError(f"a sequence of {T} tokens is longer than the model's context of {self.config.context}")
        documents = None if bounds is None else documents_of(bounds, B, T, ids_BT.device)
        if cache is None:
            cos, sin, mask = self.cos_TE[:T], self.sin_TE[:T], None
        else:
            positions_BT, mask = cache.expect(T)
            cos, sin = self.cos_TE[positions_BT][:, None], self.sin_TE[positions_BT][:, None]
        x_BTD = self.embedding(ids_BT)
        products = autocast_dtype(x_BTD)
        if self.low_stream and products:
            x_BTD = x_BTD.to(products)
        # nothing waits yet: zeros, so that the first block has the graph of the others
        waiting_BTD = torch.zeros_like(x_BTD, dtype=products) if x_BTD.is_cuda else None
        for layer, block in enumerate(self.blocks):
            stream = block, x_BTD, waiting_BTD, cos, sin
            if cache is not None:
                x_BTD, waiting_BTD = Block.__call__(*stream, cache, layer, mask, None)
            elif self.recompute and torch.is_grad_enabled():
                x_BTD, waiting_BTD = checkpoint(self._run, *stream, None, 0, None, documents, use_reentrant=False)
            else:
                x_BTD, waiting_BTD = self._run(*stream, None, 0, None, documents)
        if cache is not None:
            cache.lengths_B += T
        return self.norm(x_BTD if waiting_BTD is None else x_BTD + waiting_BTD)

    def num_parameters(self) -> int:
        """Numbers learned; a tied head is counted once."""
        return sum(weight.numel() for weight in self.parameters())
