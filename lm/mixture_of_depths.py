"""A layer that only a share of the tokens goes through: Mixture-of-Depths (Raposo et al. 2024, arXiv:2404.02258).

    y_t = x_t + r_t f(x)_t where token t goes through, y_t = x_t elsewhere,   r_t = w' x_t      (equation 1)

f being what the layer's mixer and feed-forward layer add to the stream, which see each other's chosen tokens alone. In training
the K tokens of a row with the largest r go through (section 3.4), K being a share of its tokens. That asks what later tokens
score, so whether a token goes through when a model evaluates or samples is said by a predictor, which learns in training to
tell the chosen ones, by a cross-entropy that changes nothing else (section 3.5, the second of two ways). A state keeps the
tokens that went through, and which these were.

Differs from the paper: the predictor is one matrix, as the router is, beside the logarithm of the share's odds, and reads a
token scaled to a mean square of 1, since it learns slowly from the small numbers that a stream begins with; K is rounded up.
Rotations are those of places in the row; a mixer that counts tokens, such as a sliding window, counts the chosen ones.
Padding counts as tokens in training. Passes that do not train make the products of all tokens, so that their shapes depend
on none: they save keys and values that are read.

Letters as in lm/shape.py; K tokens of a row that go through; C slots of a row in a state.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kernels.attention.documents import Documents
from lm.config import Config
from lm.context import Context
from lm.feed_forwards.routing import wide_product
from lm.mixers.base import Mixer, State
from lm.quantized.inputs import Rounding
from lm.shape import Shape

# (what a layer adds to the stream of tokens, auxiliary loss) of the tokens and their pass
Adds = Callable[[Tensor, Context], tuple[Tensor, Tensor | None]]


MILLION = 1_000_000


def tokens_of(millionths: int, length: int) -> int:
    """Product of a length and a share in millionths, rounded up."""
    return -(-length * millionths // MILLION)


class MixtureOfDepths(Config):
    """Share of the tokens that a layer is for."""

    share: float = Field(0.125, gt=1e-6, lt=1, description="of a row's tokens that go through the layer in training")

    def tokens(self, length: int) -> int:
        """Tokens of a row of this length that go through in training: their share, rounded up."""
        return tokens_of(self.millionths, length)

    @property
    def millionths(self) -> int:
        """The share in whole numbers: a compiler that has one graph for rows of all lengths rounds no fractions of them."""
        return round(self.share * MILLION)

    def build(self, shape: Shape, mixer: Mixer) -> "Depths":
        """The module of one layer with this mixer."""
        return Depths(self, shape, mixer)


class SelectedTokens(NamedTuple):
    """places_BK: of tokens in their rows, in order; through_BK: which of them go through, always those in front."""

    places_BK: Tensor
    through_BK: Tensor


def top_tokens(scores_BT: Tensor, tokens: int) -> SelectedTokens:
    """Choice of as many tokens of each row, with the largest scores."""
    places_BK = scores_BT.topk(tokens, 1).indices.sort(1).values
    return SelectedTokens(places_BK, torch.ones_like(places_BK, dtype=torch.bool))


def routed_first(through_BT: Tensor) -> SelectedTokens:
    """All tokens of each row, those that go through in front of the others."""
    places_BT = (~through_BT).to(torch.uint8).argsort(dim=1, stable=True)
    return SelectedTokens(places_BT, through_BT.gather(1, places_BT))


def select_documents(documents: Documents, places_BK: Tensor, length: int) -> Documents:
    """The documents of the tokens at these places of rows of so many, as documents of rows of K."""
    B, K = places_BK.shape
    device = places_BK.device
    own_BK = documents.starts_N.view(B, length).gather(1, places_BK)
    numbers_BK = torch.arange(B * K, device=device, dtype=own_BK.dtype).view(B, K)
    begins_BK = F.pad(own_BK[:, 1:] != own_BK[:, :-1], (1, 0), value=True)
    starts_BK = torch.where(begins_BK, numbers_BK, 0).cummax(1).values
    next_BK = F.pad(begins_BK[:, 1:], (0, 1), value=True)
    last_BK = torch.where(next_BK, numbers_BK + 1, B * K)
    ends_BK = last_BK.flip(1).cummin(1).values.flip(1)
    return Documents(starts_BK.flatten(), ends_BK.flatten())


def normed(x: Tensor, eps: float) -> Tensor:
    """x scaled to a mean square of 1 over its last axis, in fp32 at least."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt()


class RoutedState:
    """What a layer's mixer keeps of the tokens that went through, and which of all tokens they are."""

    def __init__(self, inner: State, rows: int, capacity: int, device: torch.device | None) -> None:
        self.inner = inner
        self.through_BC = torch.zeros(rows, capacity, dtype=torch.bool, device=device)

    def take(self, rows: Tensor, other: "RoutedState", theirs: Tensor) -> None:
        """Have these rows begin as those of another state, whose capacity is no larger."""
        self.inner.take(rows, other.inner, theirs)
        self.through_BC[rows, : other.through_BC.shape[1]] = other.through_BC[theirs]

    def lengths(self, lengths_B: Tensor) -> Tensor:
        """How many of the first tokens of each row went through."""
        slots_C = torch.arange(self.through_BC.shape[1], device=lengths_B.device)
        return (self.through_BC & (slots_C < lengths_B[:, None])).sum(1)


def check_past(index: int, embeds: bool, causal: bool) -> None:
    """Raises ValueError where a layer of a pattern cannot be one that tokens go past."""
    if embeds:
        raise ValueError(f"pattern.{index}.depths: a layer that tokens go past has no embeddings: embeddings: []")
    if not causal:
        raise ValueError(
            f"pattern.{index}.depths: a layer that tokens go past is of a causal model: set causal to true"
        )


def state_of(
    config: Any,
    index: int,
    rows: int,
    capacity: int,
    device: torch.device | None,
    dtype: torch.dtype,
    rounding: Rounding | None,
) -> State:
    """What a layer of the model keeps."""
    mixer, depths = config.layer(index).mixer, config.layer(index).depths
    room = (config, rows, capacity, device)
    inner = mixer.rounded_state(*room, rounding) if rounding else mixer.state(*room, dtype)
    return inner if depths is None else RoutedState(inner, rows, capacity, device)


class Depths(nn.Module):
    """The router of a layer and its predictor."""

    def __init__(self, method: MixtureOfDepths, shape: Shape, mixer: Mixer) -> None:
        super().__init__()
        self.millionths, self.shape, self.mixer = method.millionths, shape, mixer
        self.router = nn.Linear(shape.width, 1, bias=False)
        # no bias: ZeRO-3 has no place for one number among ranks; the share is what a predictor knows beforehand
        self.predictor, self.prior = nn.Linear(shape.width, 1, bias=False), math.log(method.share / (1 - method.share))

    def forward(self, adds: Adds, x_BTD: Tensor, context: Context) -> tuple[Tensor, Tensor | None]:
        """(x_BTD behind the layer, its auxiliary loss)."""
        scores_BT = wide_product(self.router, x_BTD)[..., 0]
        likely_BT = wide_product(self.predictor, normed(x_BTD.detach(), self.shape.norm_eps))[..., 0] + self.prior
        T, trains = x_BTD.shape[1], self.training and context.state is None
        if trains:
            chosen = top_tokens(scores_BT, tokens_of(self.millionths, T))
        else:
            through_BT = likely_BT > 0
            if context.counts_B is not None:
                through_BT = through_BT & (torch.arange(T, device=x_BTD.device) < context.counts_B[:, None])
            chosen = routed_first(through_BT)
        wide_BKD = chosen.places_BK[..., None].expand(-1, -1, x_BTD.shape[2])
        x_BKD = x_BTD.gather(1, wide_BKD)
        added_BKD, loss = adds(x_BKD, self.seen(context, chosen, T))
        shares_BK = torch.where(chosen.through_BK, scores_BT.gather(1, chosen.places_BK), 0.0)
        y_BTD = x_BTD.scatter(1, wide_BKD, x_BKD + (shares_BK[..., None] * added_BKD).to(x_BKD.dtype))
        if trains:
            told = F.binary_cross_entropy_with_logits(
                likely_BT, torch.zeros_like(likely_BT).scatter(1, chosen.places_BK, 1.0)
            )
            loss = told if loss is None else loss + told
        return y_BTD, loss

    def seen(self, context: Context, chosen: SelectedTokens, length: int) -> Context:
        """The pass as the layer's parts see it, whose tokens are the chosen ones; behind a state they go on where those that
        went through before end."""
        places_BK, state = chosen.places_BK, context.state
        B, K = places_BK.shape
        if state is None:
            own = Context(context.cos[places_BK][:, None], context.sin[places_BK][:, None])
            if context.documents is not None:
                own = replace(own, documents=select_documents(context.documents, places_BK, length))
        else:
            assert context.lengths_B is not None and context.positions_BT is not None
            lengths_B, counts_B = state.lengths(context.lengths_B), chosen.through_BK.sum(1)
            there_BK = context.positions_BT.gather(1, places_BK)
            state.through_BC.scatter_(1, there_BK, chosen.through_BK)
            turned = places_BK[:, None, :, None].expand(-1, 1, -1, context.cos.shape[-1])
            own = Context(
                context.cos.gather(2, turned),
                context.sin.gather(2, turned),
                state=state.inner,
                positions_BT=lengths_B[:, None] + torch.arange(K, device=places_BK.device),
                lengths_B=lengths_B,
                counts_B=counts_B,
                first=context.first,
            )
        return replace(own, shared=self.mixer.prepare(self.shape, own, B, K))
