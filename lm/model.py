"""The language model: a decoder of blocks, each a mixer and a feed-forward layer with a norm before either.

By default in the manner of Llama: attention with grouped queries and rotary positions, SwiGLU, RMSNorm; QK-norm, biases of
query, key and value, and tied embeddings are options. Llama 2 and 3, Qwen 2 and 3 and SmolLM are settings of it:
lm/hugging_face/load.py reads and writes theirs. Letters as in lm/shape.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kernels.attention.documents import documents_of
from lm import embeddings as tables
from lm import feed_forwards, linears, mixers, norms
from lm.block import Block
from lm.cache import Cache
from lm.config import Config, choice
from lm.context import Context, autocast_dtype
from lm.depth import Depth, run_blocks
from lm.embeddings.base import Tokens, before_of, check_layer, check_lists, embedded
from lm.linears.base import LinearMethod, ReparametrizedLinear, Roles, replace_layers
from lm.mixture_of_depths import MixtureOfDepths, check_past
from lm.parts import draw_
from lm.prompts.base import PromptState, SoftPrompt, apply_prompt, check_accepts_prompt
from lm.quantized.inputs import Rounding
from lm.rope import rotary_cos_sin
from lm.shape import SAID, Shape
from lm.softcap import capped

# Where a decoder carries what lm/heads.py puts on it, beside its own layers
HEADS = "heads"


class Layer(Config):
    """What a layer has in the place of the model's own mixer, feed-forward and embeddings of layers; depths: which tokens go
    through it, all where none is given."""

    mixer: choice(mixers) | None = None
    feed_forward: choice(feed_forwards) | None = None
    embeddings: list[choice(tables)] | None = None
    depths: MixtureOfDepths | None = None


class Parts(NamedTuple):
    """What a layer is made of."""

    mixer: Any
    feed_forward: Any
    embeddings: list[Any]
    depths: MixtureOfDepths | None


class ModelConfig(Shape):
    """A decoder: its shape and its parts."""

    mixer: choice(mixers) = mixers.Attention()
    feed_forward: choice(feed_forwards) = feed_forwards.SwiGLU()
    norm: choice(norms) = norms.RMSNorm()
    embeddings: list[choice(tables)] = Field(
        [], description="beside the one that the stream begins with: of the input, and of all layers without their own"
    )
    pattern: list[Layer] = Field([], description="the layers' own parts, again and again from the first layer on")
    logit_softcap: float | None = Field(None, gt=0, description="c of the logits c tanh(logits / c); null: they stay")

    def layer(self, index: int) -> Parts:
        """The parts of a layer: those of the pattern, else the model's own."""
        own = self.pattern[index % len(self.pattern)] if self.pattern else Layer()
        beside = [one for one in self.embeddings if one.in_layers] if own.embeddings is None else own.embeddings
        return Parts(own.mixer or self.mixer, own.feed_forward or self.feed_forward, beside, own.depths)

    @model_validator(mode="after")
    def _fitting_embeddings(self) -> "ModelConfig":
        of_pattern = [layer.embeddings or [] for layer in self.pattern]
        check_lists(self.embeddings, of_pattern)
        for index in range(max(len(self.pattern), 1)):
            mixer, _, beside, depths = self.layer(index)
            check_layer(index, beside, mixer)
            mixer.check(self, index)
            if depths:
                check_past(index, bool(beside), self.causal)
        return self

    @property
    def trained_otherwise(self) -> bool:
        """Whether a pass of training computes another function than all others do."""
        layers = [self.layer(index) for index in range(self.layers)]
        parts = [part for layer in layers for part in (layer.mixer, layer.feed_forward)]
        return any(layer.depths for layer in layers) or any(part.trained_otherwise for part in parts)

    @property
    def of_input(self) -> list[Any]:
        """The embeddings that change the embedded tokens, in their order."""
        return [one for one in self.embeddings if not one.in_layers]

    def select_layers(self, indices: Sequence[int]) -> "ModelConfig":
        """The model of these of its layers alone, in this order."""
        pattern = [Layer(**self.layer(index)._asdict()) for index in indices] if self.pattern else []
        return self.model_copy(update={"layers": len(indices), "pattern": pattern})

    def state_numel(self, tokens: float) -> float:
        """Numbers that a cache holds for a row of so many tokens."""
        ids = tokens if self.of_input else 0.0
        return ids + sum(self.layer(index).mixer.state_numel(self, tokens) for index in range(self.layers))

    def described(self) -> dict[str, Any]:
        """What config.json says of the model. Of the parts, and of causality, only what is not the default: a model of these is
        described as it was before there were others."""
        usual = {name for name in ModelConfig.model_fields.keys() - SAID if self._is_default(name)}
        return self.model_dump(exclude=usual)

    def _is_default(self, name: str) -> bool:
        return getattr(self, name) == ModelConfig.model_fields[name].default


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
        if config.of_input:
            self.of_input = nn.ModuleList(one.build(config) for one in config.of_input)
        self.blocks = nn.ModuleList(Block(config, index) for index in range(config.layers))
        self.norm = config.norm.build(config.width, config.norm_eps)
        if not config.tied:
            self.head = Head(config.width, config.vocab_size, bias=False)
        cos_TE, sin_TE = self._rotations(0)
        self.register_buffer("cos_TE", cos_TE, persistent=False)
        self.register_buffer("sin_TE", sin_TE, persistent=False)
        self.recompute, self.low_stream, self.passes = False, False, 1
        self.depth: Depth | None = None
        self.checkpointing: dict[str, Any] = {"use_reentrant": False}  # how, if it recomputes
        self.linear: LinearMethod = linears.Dense()
        self.artifact: Any = None
        # what stands before every text; None: nothing
        self.prompt: Any = None
        # of what attention keeps in a cache; None: it is kept as it is
        self.cache_rounding: Rounding | None = None
        # layers that are held otherwise than dense, and parameters that are not trained meanwhile
        self.held: dict[str, ReparametrizedLinear] = {}
        self._staying: set[str] = set()
        self._run: Callable[..., tuple[Tensor, Tensor | None, Tensor | None]] = Block.__call__
        self._losses: list[Tensor] = []
        # None: of a layer that prepares for the tokens that go through it
        self._mixers = [None if one.depths else one.mixer for one in map(config.layer, range(config.layers))]
        self._told = any(config.layer(index).embeddings for index in range(config.layers))
        draw_(self, list(enumerate(self.blocks)), config, torch.Generator().manual_seed(seed))

    def _rotations(self, prompt: int) -> tuple[Tensor, Tensor]:
        config = self.config
        return rotary_cos_sin(config.rope_theta, config.head_dim, config.context + prompt, config.rope_scaling)

    def reparametrize(self, linear: LinearMethod) -> None:
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
        for name in linear.frozen_parameters(own):
            self.get_parameter(name).requires_grad_(False)
        for name in shapes:  # one at a time: what takes a dense layer's place may be smaller
            layer: Any = self.blocks.get_submodule(name)
            replace_layers(self.blocks, {name: build(f"blocks.{name}", layer)})
        self._staying = {name for name, weight in self.named_parameters() if not weight.requires_grad}
        self.held = {name: layer for name, layer in self.named_modules() if isinstance(layer, ReparametrizedLinear)}

    def narrow_windows(self, share: float) -> None:
        """Let windows be this share of what the config has, in passes from now on; 1: the whole."""
        mixers = [self.config.layer(index).mixer for index in range(len(self.blocks))]
        narrowed = [mixer.narrowed(share) or mixer for mixer in mixers]
        # those of layers that tokens go past prepare for the chosen ones by themselves
        self._mixers = [now and mixer for now, mixer in zip(self._mixers, narrowed, strict=True)]

    def set_prompt(self, prompt: SoftPrompt) -> None:
        """Read this before every text: its vectors have the first positions, and those of the text go on from there. Raises
        ConfigError for a model that has one already, or whose embeddings ask for the ids of what is read."""
        check_accepts_prompt(self.prompt, bool(self.config.of_input) or self._told)
        tables = self._rotations(len(prompt))
        self.cos_TE, self.sin_TE = (table.to(self.cos_TE.device) for table in tables)
        self.prompt = prompt

    def merge(self) -> None:
        """Make dense what is held otherwise, and a prompt vectors and offsets alone; then all of the model is trained again.
        `artifact` is what is left of it."""
        self.artifact = self.linear.artifact(self.held)
        if self.prompt is not None:
            keep, self.prompt = self.prompt.keep, self.prompt.settled()
            self.artifact = PromptState(self.prompt.vectors.detach()) if keep else self.artifact
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

    def new_cache(self, rows: int, capacity: int, dtype: torch.dtype = torch.float32) -> Cache:
        """A cache for so many rows, in whole numbers where the model keeps it so. ConfigError where the model is not causal."""
        room = self.config, rows, capacity, self.embedding.weight.device
        return Cache(*room, dtype, self.cache_rounding, len(self.prompt or ()))

    def forward(self, ids_BT: Tensor, cache: Cache | None = None, bounds: Tensor | None = None) -> Tensor:
        """logits_BTV of what `hidden` gives."""
        return capped(F.linear(self.hidden(ids_BT, cache, bounds), self.head_weight), self.config.logit_softcap)

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
        A prompt that the model carries is read in front of each row, once where there is a cache, and nothing is told of it.
        Raises ValueError when the sequence is longer than the context, for bounds with a cache or a prompt, and for bounds that
        do not fit.
        """
        x_BTD, waiting_BTD, contexts = self.begin_pass(ids_BT, cache, bounds, counts_B, noise_BTD)
        x_BTD, waiting_BTD = run_blocks(self, contexts, x_BTD, waiting_BTD, cache)
        if cache is not None:
            cache.grow(ids_BT.shape[1], counts_B)
        x_BTD = self.norm(x_BTD, waiting_BTD)[1]
        read = x_BTD.shape[1] - ids_BT.shape[1]
        return x_BTD[:, read:] if read else x_BTD

    def begin_pass(
        self,
        ids_BT: Tensor,
        cache: Cache | None,
        bounds: Tensor | None,
        counts_B: Tensor | None = None,
        noise_BTD: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, list[Context]]:
        """(x_BTD, what waits to be added to it, the pass as each layer sees it) in front of the first block; as `hidden` has
        them, behind the prompt where this pass reads it."""
        if cache is not None and bounds is not None:
            raise ValueError("a cache holds one document a row: give bounds to a forward without a cache")
        if self.prompt is not None and bounds is not None:
            raise ValueError("a model that carries a prompt reads one text a row, and these rows have several")
        B, T = ids_BT.shape
        if self.config.context < T:
            raise ValueError(f"a sequence of {T} tokens is longer than the model's context of {self.config.context}")
        P = len(self.prompt or ())
        # of the prompt, what this pass reads itself
        read = P if cache is None or cache.first else 0
        if cache is None:
            documents = None if bounds is None else documents_of(bounds, B, T, ids_BT.device)
            context = Context(self.cos_TE[: read + T], self.sin_TE[: read + T], documents)
        else:
            lengths_B = cache.lengths_B + (P - read) if P else cache.lengths_B
            positions_BT = lengths_B[:, None] + torch.arange(read + T, device=ids_BT.device)
            cos, sin = self.cos_TE[positions_BT][:, None], self.sin_TE[positions_BT][:, None]
            counts_B = None if counts_B is None else counts_B + read
            context = Context(cos, sin, None, None, None, positions_BT, lengths_B, counts_B, cache.first)
        contexts = self._by_layer(context, cache, B, read + T)
        x_BTD = self.embedding(ids_BT)
        if noise_BTD is not None:
            x_BTD = x_BTD + noise_BTD
        if self.prompt is not None:
            x_BTD = apply_prompt(self.prompt(), x_BTD, None if cache is None else cache.lengths_B, read > 0)
        if self.config.of_input:
            seen_BC = None if cache is None else cache.ids_BC
            before_BT = before_of(ids_BT, context, seen_BC)
            x_BTD = embedded(self.of_input, x_BTD, Tokens(ids_BT, before_BT, self.embedding))
        products = autocast_dtype(x_BTD)
        if self.low_stream and products:
            x_BTD = x_BTD.to(products)
        if self._told:
            # a view: the first block would be compiled by itself if two of its inputs were one tensor
            embedded_BTD = x_BTD.view_as(x_BTD)
            told = {id(one): replace(one, ids_BT=ids_BT, embedded_BTD=embedded_BTD) for one in contexts}
            contexts = [told[id(one)] for one in contexts]
        # nothing waits yet: zeros with a gradient, so that the first block has the graph of the others
        waiting_BTD = (
            torch.zeros_like(x_BTD, dtype=products).requires_grad_(x_BTD.requires_grad) if x_BTD.is_cuda else None
        )
        return x_BTD, waiting_BTD, contexts

    def run_block(
        self, block: nn.Module, x_BTD: Tensor, waiting_BTD: Tensor | None, context: Context, cache: Cache | None
    ) -> tuple[Tensor, Tensor | None]:
        """(x_BTD, what waits) behind a block of the model's; what that adds to the loss is kept for `auxiliary_loss`."""
        if cache is not None:
            x_BTD, waiting_BTD, loss = Block.__call__(block, x_BTD, waiting_BTD, context)
        elif self.recompute and torch.is_grad_enabled():
            x_BTD, waiting_BTD, loss = checkpoint(self._run, block, x_BTD, waiting_BTD, context, **self.checkpointing)
        else:
            x_BTD, waiting_BTD, loss = self._run(block, x_BTD, waiting_BTD, context)
        if loss is not None and self.training and torch.is_grad_enabled():
            self._losses.append(loss)
        return x_BTD, waiting_BTD

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
        kinds: list[tuple[Config | None, Context]] = []
        found = []
        for index, mixer in enumerate(self._mixers):
            state = None if cache is None else cache.states[index]
            known = next((made for kind, made in kinds if kind == mixer), None)
            if known is None:
                mine = replace(context, state=state)
                known = replace(mine, shared=mixer and mixer.prepare(self.config, mine, rows, length))
                kinds.append((mixer, known))
            found.append(known if state is known.state else replace(known, state=state))
        return found

    def select_layers(self, indices: Sequence[int]) -> "Decoder":
        """The model of these of its layers alone, in this order, with copies of its weights, in evaluation mode."""
        made = Decoder(self.config.select_layers(indices)).to(self.embedding.weight.device)
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
        idle = sum(
            layer.mixer.unused_weights(self.config) + layer.feed_forward.unused_weights(self.config) for layer in layers
        )
        return self.num_parameters() - idle

    def num_parameters(self) -> int:
        """Numbers learned; a tied head is counted once."""
        return sum(weight.numel() for weight in self.parameters())
