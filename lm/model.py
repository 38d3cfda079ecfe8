"""The language model: a decoder of blocks, each a mixer and a feed-forward layer with a norm before either.

By default in the manner of Llama: attention with grouped queries and rotary positions, SwiGLU, RMSNorm; QK-norm, biases of
query, key and value, and tied embeddings are options. Llama 2 and 3, Qwen 2 and 3 and SmolLM are settings of it:
lm/hugging_face/load.py reads and writes theirs. Letters as in lm/shape.py.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kernels.attention.documents import documents_of
from lm import feed_forwards, linears, mixers, norms
from lm.config import Config, choice
from lm.context import Context, autocast_dtype
from lm.linears.base import Held, Holding, Roles, replace_layers
from lm.rope import rotary_cos_sin
from lm.shape import Shape

# Where a decoder carries what lm/heads.py puts on it, beside its own layers
HEADS = "heads"


class Layer(Config):
    """What a layer has in the place of the model's own mixer and feed-forward."""

    mixer: choice(mixers) | None = None
    feed_forward: choice(feed_forwards) | None = None


class Parts(NamedTuple):
    """What a layer is made of."""

    mixer: Any
    feed_forward: Any


class ModelConfig(Shape):
    """A decoder: its shape and its parts."""

    mixer: choice(mixers) = mixers.Attention()
    feed_forward: choice(feed_forwards) = feed_forwards.SwiGLU()
    norm: choice(norms) = norms.RMSNorm()
    pattern: list[Layer] = Field([], description="the layers' own parts, again and again from the first layer on")

    def layer(self, index: int) -> Parts:
        """The parts of a layer: those of the pattern, else the model's own."""
        own = self.pattern[index % len(self.pattern)] if self.pattern else Layer()
        return Parts(own.mixer or self.mixer, own.feed_forward or self.feed_forward)

    def of_layers(self, indices: Sequence[int]) -> "ModelConfig":
        """The model of these of its layers alone, in this order."""
        pattern = [Layer(**self.layer(index)._asdict()) for index in indices] if self.pattern else []
        return self.model_copy(update={"layers": len(indices), "pattern": pattern})

    def kept(self, tokens: float) -> float:
        """Numbers that a cache holds for a row of so many tokens."""
        return sum(self.layer(index).mixer.kept(self, tokens) for index in range(self.layers))

    def described(self) -> dict[str, Any]:
        """What config.json says of the model. Of the parts only those that are not the default: a model of these is described
        as it was before there were others."""
        usual = {name for name in ModelConfig.model_fields.keys() - Shape.model_fields if self._is_default(name)}
        return self.model_dump(exclude=usual)

    def _is_default(self, name: str) -> bool:
        return getattr(self, name) == ModelConfig.model_fields[name].default


class Cache:
    """What each layer keeps of the tokens seen so far, for rows of up to `capacity` tokens each; row b has lengths_B[b].
    Raises ValueError for a capacity beyond the model's context."""

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
        layers = [config.layer(index) for index in range(config.layers)]
        self.states = [layer.mixer.state(config, rows, capacity, device, dtype) for layer in layers]
        self.lengths_B = torch.zeros(rows, dtype=torch.int64, device=device)
        self.capacity, self.dtype, self.first = capacity, dtype, True

    def grow(self, tokens: int, counts_B: Tensor | None) -> None:
        """Count so many tokens of each row as kept, or as many as counts_B says."""
        self.lengths_B += tokens if counts_B is None else counts_B
        self.first = False

    def take(self, rows: Tensor, other: "Cache", theirs: Tensor) -> None:
        """Have these rows begin as those of another cache, whose capacity is no larger."""
        # a layer at a time: what is taken lies twice in memory meanwhile
        for state, others in zip(self.states, other.states, strict=True):
            state.take(rows, others, theirs)
        self.lengths_B[rows] = other.lengths_B[theirs]
        self.first = False


def with_loss(made: Any) -> tuple[Tensor, Tensor | None]:
    """(result, auxiliary loss) of a part, which gives its result alone where it has no such loss."""
    return made if isinstance(made, tuple) else (made, None)


class Block(nn.Module):
    """(x, waiting) -> (x, waiting, loss): the residual stream, and what the last block made, which is added to it where it is
    read next, in one kernel with a norm. None waits where there is no such kernel: the sum is then made at once. loss: the
    auxiliary one of its parts, None where they have none.

    Whatever the parts are, `attention` is the mixer and `ffn` the feed-forward layer: their names in saved weights.
    """

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        parts = config.layer(index)
        self.attention_norm = config.norm.build(config.width, config.norm_eps)
        self.attention = parts.mixer.build(config)
        self.ffn_norm = config.norm.build(config.width, config.norm_eps)
        self.ffn = parts.feed_forward.build(config)

    def forward(
        self, x: Tensor, waiting: Tensor | None, context: Context
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        x, normed = self.attention_norm(x, waiting)
        mixed, loss = with_loss(self.attention(normed, context))
        x, normed = self.ffn_norm(x, mixed)
        more, other = with_loss(self.ffn(normed))
        loss = other if loss is None else loss if other is None else loss + other
        return (x + more, None, loss) if waiting is None else (x, more, loss)


class Head(nn.Linear):
    """The output head where it is not the embedding."""

    roles: ClassVar[Roles] = {"weight": "output"}


class Decoder(nn.Module):
    """The model. `seed` decides the initial weights, whatever else uses torch's generator."""

    cos_TE: Tensor
    sin_TE: Tensor

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config, index) for index in range(config.layers))
        self.norm = config.norm.build(config.width, config.norm_eps)
        if not config.tied:
            self.head = Head(config.width, config.vocab_size, bias=False)
        cos_TE, sin_TE = rotary_cos_sin(config.rope_theta, config.head_dim, config.context, config.rope_scaling)
        self.register_buffer("cos_TE", cos_TE, persistent=False)
        self.register_buffer("sin_TE", sin_TE, persistent=False)
        self.recompute = self.low_stream = False
        self.linear: Holding = linears.Dense()
        self.learned: Any = None
        # layers that are held otherwise than dense, and parameters that are not trained meanwhile
        self.held: dict[str, Held] = {}
        self._staying: set[str] = set()
        self._run: Callable[..., tuple[Tensor, Tensor | None, Tensor | None]] = Block.__call__
        self._losses: list[Tensor] = []
        self._mixers = [config.layer(index).mixer for index in range(config.layers)]
        self._initialise(seed)

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        """Biases 0; matrices normal, std 0.02, and 1/sqrt(2 layers) of that in the projections back into the stream, as in
        GPT-2."""
        generator = torch.Generator().manual_seed(seed)
        into_stream: set[nn.Module] = set()
        for index, block in enumerate(self.blocks):
            parts = self.config.layer(index)
            for part, module in ((parts.mixer, block.attention), (parts.feed_forward, block.ffn)):
                into_stream |= {module.get_submodule(name) for name in part.into_stream}  # type: ignore[union-attr]
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                share = 1 / math.sqrt(2 * self.config.layers) if module in into_stream else 1
                module.weight.normal_(0, 0.02 * share, generator=generator)
                if getattr(module, "bias", None) is not None:
                    module.bias.zero_()  # type: ignore[operator]

    def hold(self, linear: Holding) -> None:
        """Have the matrices of the blocks held by this choice of lm/linears, from what they are now; a dense model is not
        changed, and heads that it carries are trained in any case. Raises ConfigError for a choice that does not fit."""
        shapes = {
            name: (layer.out_features, layer.in_features)
            for name, layer in self.blocks.named_modules()
            if isinstance(layer, nn.Linear)
        }
        linear.check(list(shapes))
        build = linear.builder({f"blocks.{name}": shape for name, shape in shapes.items()})
        self.linear = linear
        own = [name for name, _ in self.named_parameters() if not name.startswith(f"{HEADS}.")]
        for name in linear.staying(own):
            self.get_parameter(name).requires_grad_(False)
        for name in shapes:  # one at a time: what takes a dense layer's place may be smaller
            layer: Any = self.blocks.get_submodule(name)
            replace_layers(self.blocks, {name: build(f"blocks.{name}", layer)})
        self._staying = {name for name, weight in self.named_parameters() if not weight.requires_grad}
        self.held = {name: layer for name, layer in self.named_modules() if isinstance(layer, Held)}

    def merge(self) -> None:
        """Make dense what is held otherwise; then all of the model is trained again. `learned` is what is left of it."""
        self.learned = self.linear.learned(self.held)
        replace_layers(self, {name: layer.merged() for name, layer in self.held.items()})
        if self._staying:
            self.requires_grad_(True)
        self.linear, self.held, self._staying = linears.Dense(), {}, set()

    def compile_blocks(self, wanted: bool, any_length: bool = False) -> None:
        """Whether passes without a cache run compiled: one graph for all blocks of the same parts, which differ in weights
        alone, and for rows and lengths of all sizes, or one for each size. The compiler is held to the same bits each time
        where torch is."""
        if wanted:
            torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled())
        self._run = torch.compile(Block.__call__, dynamic=any_length) if wanted else Block.__call__

    @property
    def head_weight(self) -> Tensor:
        """weight_VD of the logits."""
        return self.embedding.weight if self.config.tied else self.head.weight

    def forward(self, ids_BT: Tensor, cache: Cache | None = None, bounds: Tensor | None = None) -> Tensor:
        """logits_BTV of what `hidden` gives."""
        return F.linear(self.hidden(ids_BT, cache, bounds), self.head_weight)

    def hidden(
        self,
        ids_BT: Tensor,
        cache: Cache | None = None,
        bounds: Tensor | None = None,
        counts_B: Tensor | None = None,
        noise_BTD: Tensor | None = None,
    ) -> Tensor:
        """x_BTD, of which the head makes logits. With a cache, ids are the tokens that follow its rows, which
        grow by them; a row's positions go on from its own length. counts_B: how many of the T tokens are the row's, all others
        being padding behind them, by which it does not grow; None: all.

        bounds: where documents begin in the B x T tokens, as documents_of has them; a token sees its own document alone. None:
        a row is one document. Positions go on counting along the row all the same, since rotary attention depends on
        their differences alone.
        noise_BTD: added to the embeddings; None: nothing.
        Without a cache, and with `recompute` set, the backward makes each block's activations anew from its input, which alone
        is kept (Chen et al. 2016, arXiv:1604.06174). With `low_stream` set, the residual stream has the dtype of autocast.
        Raises ValueError when the sequence is longer than the context, for bounds with a cache, and for bounds that do not fit.
        """
        if cache is not None and bounds is not None:
            raise ValueError("a cache holds one document a row: give bounds to a forward without a cache")
        B, T = ids_BT.shape
        if self.config.context < T:
            raise ValueError(f"a sequence of {T} tokens is longer than the model's context of {self.config.context}")
        if cache is None:
            documents = None if bounds is None else documents_of(bounds, B, T, ids_BT.device)
            context = Context(self.cos_TE[:T], self.sin_TE[:T], documents)
        else:
            positions_BT = cache.lengths_B[:, None] + torch.arange(T, device=ids_BT.device)
            cos, sin = self.cos_TE[positions_BT][:, None], self.sin_TE[positions_BT][:, None]
            lengths_B = cache.lengths_B
            context = Context(cos, sin, None, None, None, positions_BT, lengths_B, counts_B, cache.first)
        contexts = self._by_layer(context, cache, B, T)
        x_BTD = self.embedding(ids_BT)
        if noise_BTD is not None:
            x_BTD = x_BTD + noise_BTD
        products = autocast_dtype(x_BTD)
        if self.low_stream and products:
            x_BTD = x_BTD.to(products)
        # nothing waits yet: zeros, so that the first block has the graph of the others
        waiting_BTD = torch.zeros_like(x_BTD, dtype=products) if x_BTD.is_cuda else None
        for block, context in zip(self.blocks, contexts, strict=True):
            if cache is not None:
                x_BTD, waiting_BTD, loss = Block.__call__(block, x_BTD, waiting_BTD, context)
            elif self.recompute and torch.is_grad_enabled():
                x_BTD, waiting_BTD, loss = checkpoint(
                    self._run, block, x_BTD, waiting_BTD, context, use_reentrant=False
                )
            else:
                x_BTD, waiting_BTD, loss = self._run(block, x_BTD, waiting_BTD, context)
            if loss is not None and self.training and torch.is_grad_enabled():
                self._losses.append(loss)
        if cache is not None:
            cache.grow(T, counts_B)
        return self.norm(x_BTD, waiting_BTD)[1]

    def auxiliary_loss(self) -> Tensor | None:
        """Sum of what the parts have to add to the loss of the passes since this was last asked, in training with gradients,
        and of what the layers that are held have to; None where that is nothing. That of a part is a mean over the tokens of
        its pass."""
        losses, self._losses = self._losses, []
        if self.training and torch.is_grad_enabled():
            losses += [loss for layer in self.held.values() if (loss := layer.penalty()) is not None]
        return torch.stack(losses).sum() if losses else None

    def _by_layer(self, context: Context, cache: Cache | None, rows: int, length: int) -> list[Context]:
        """The pass as each layer sees it. Layers whose mixers are equal share one preparation, and without a cache one context,
        which a compiled block need not look at twice."""
        kinds: list[tuple[Config, Context]] = []
        found = []
        for index, mixer in enumerate(self._mixers):
            state = None if cache is None else cache.states[index]
            known = next((made for kind, made in kinds if kind == mixer), None)
            if known is None:
                mine = replace(context, state=state)
                known = replace(mine, shared=mixer.prepare(self.config, mine, rows, length))
                kinds.append((mixer, known))
            found.append(known if state is known.state else replace(known, state=state))
        return found

    def of_layers(self, indices: Sequence[int]) -> "Decoder":
        """The model of these of its layers alone, in this order, with copies of its weights, in evaluation mode."""
        made = Decoder(self.config.of_layers(indices)).to(self.embedding.weight.device)
        made.load_state_dict({n: w for n, w in self.state_dict().items() if not n.startswith("blocks.")}, strict=False)
        for mine, theirs in enumerate(indices):
            made.blocks[mine].load_state_dict(self.blocks[theirs].state_dict())
        return made.eval()

    def num_trained(self) -> int:
        """Numbers that training changes, now that matrices are held as they are."""
        return sum(weight.numel() for name, weight in self.named_parameters() if name not in self._staying)

    def num_active(self) -> int:
        """Numbers learned that one token meets: all but those which a part leaves out for it."""
        layers = [self.config.layer(index) for index in range(self.config.layers)]
        idle = sum(layer.mixer.idle(self.config) + layer.feed_forward.idle(self.config) for layer in layers)
        return self.num_parameters() - idle

    def num_parameters(self) -> int:
        """Numbers learned; a tied head is counted once."""
        return sum(weight.numel() for weight in self.parameters())
