"""A wider model from the weights of another: each place of an axis copies one of the smaller model's, and what reads copies
divides among them.

Letters: S places of an axis of the smaller model, T of the larger, O outputs of a matrix.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lm.config import ConfigError
from lm.model import Decoder, ModelConfig

# (axis of its outputs, axis of its inputs) of each weight, below blocks.<layer>; "" for an axis that does not grow
OF_LAYER = {
    "attention.query.weight": ("queries", "stream"), "attention.query.bias": ("queries", ""),
    "attention.key.weight": ("pairs", "stream"), "attention.key.bias": ("pairs", ""),
    "attention.value.weight": ("pairs", "stream"), "attention.value.bias": ("pairs", ""),
    "attention.query_norm.weight": ("", ""), "attention.key_norm.weight": ("", ""),
    "attention.output.weight": ("stream", "queries"),
    "ffn.gate.weight": ("channels", "stream"), "ffn.up.weight": ("channels", "stream"),
    "ffn.down.weight": ("stream", "channels"),
    "attention_norm.weight": ("stream", ""), "attention_norm.bias": ("stream", ""),
    "ffn_norm.weight": ("stream", ""), "ffn_norm.bias": ("stream", ""),
}  # fmt: skip
OF_MODEL = {
    "embedding.weight": ("", "stream"), "head.weight": ("", "stream"),
    "norm.weight": ("stream", ""), "norm.bias": ("stream", ""),
}  # fmt: skip
WRITES = ("attention.output.weight", "ffn.down.weight")

Pick = Callable[[int, int], list[int]]
Draw = Callable[[str, Tensor], Tensor]


@dataclass(frozen=True)
class Places:
    """Place of the smaller model that each place of an axis of the larger one copies; -1: none.

    stream: channels of the residual stream; queries, pairs: rows of the query heads and of the key/value heads; channels: of
    feed-forward layers.
    """

    stream: Tensor
    queries: Tensor
    pairs: Tensor
    channels: Tensor

    def of(self, axis: str) -> Tensor | None:
        """places_T of an axis; None of one that does not grow."""
        return getattr(self, axis) if axis else None


def in_turn(small: int, large: int) -> list[int]:
    """Places 0, 1, ... of `small` again and again, `large` of them."""
    return [place % small for place in range(large)]


def places_of(small: ModelConfig, large: ModelConfig, pick: Pick, stream: Sequence[int] | None = None) -> Places:
    """The places of all axes. `pick(S, T)` chooses them, of query heads within each key/value head's, so that each query
    head's copy sees a copy of its own keys; a head is copied whole. stream: that of the stream, if it is not picked."""
    group, groups = small.heads // small.kv_heads, large.heads // large.kv_heads
    pairs = pick(small.kv_heads, large.kv_heads)
    queries = [pair * group + place for pair in pairs for place in pick(group, groups)]
    found = pick(small.width, large.width) if stream is None else list(stream)
    channels = pick(small.ffn_width, large.ffn_width)
    return Places(torch.tensor(found), _rows(queries, small), _rows(pairs, small), torch.tensor(channels))


def _rows(heads: Sequence[int], shape: ModelConfig) -> Tensor:
    return torch.tensor([head * shape.head_dim + place for head in heads for place in range(shape.head_dim)])


def counts_of(places_T: Tensor) -> Tensor:
    """counts_T: how many places copy what this one copies; 1 where it copies nothing."""
    counts_S = torch.bincount(places_T[places_T >= 0])
    return counts_S[places_T.clamp(min=0)].where(places_T >= 0, 1)


def ranks_of(places_T: Tensor) -> Tensor:
    """ranks_T: how many places before this one copy what it copies."""
    seen: Counter[int] = Counter()
    ranks = []
    for place in places_T.tolist():
        ranks.append(seen[place])
        seen[place] += 1
    return torch.tensor(ranks)


def gather_places(weight: Tensor, places_T: Tensor, pad: Tensor) -> Tensor:
    """weight of places_T along its first axis, `pad` standing where they copy nothing."""
    return torch.cat((weight, pad.to(weight.dtype).expand_as(weight[:1])))[places_T]


def split_columns(weight_OS: Tensor, places_T: Tensor, drawn_OT: Tensor | None = None) -> Tensor:
    """weight_OT whose columns that copy one sum to it: the drawn ones, moved by the same amount each; without, equal ones. A
    column that copies nothing is the drawn one."""
    counts_T, copies_T = counts_of(places_T), places_T.clamp(min=0)
    weight_OT = weight_OS.double()[:, copies_T] / counts_T
    if drawn_OT is not None:
        drawn_OT = drawn_OT.double()
        there_T = (places_T >= 0).double()
        sums_OS = torch.zeros_like(weight_OS, dtype=torch.float64).index_add_(1, copies_T, drawn_OT * there_T)
        weight_OT = weight_OT - sums_OS[:, copies_T] / counts_T + drawn_OT
    return weight_OT.where(places_T >= 0, 0.0 if drawn_OT is None else drawn_OT).to(weight_OS.dtype)


def check_known(shape: ModelConfig, slot: str) -> None:
    """Raises ConfigError, which begins with `slot`, for a model with a weight of which it is not known how it grows."""
    mixers = [shape.layer(index).mixer for index in range(shape.layers)]
    if unlike := [mixer.name for mixer in mixers if not mixer.heads_alike]:
        raise ConfigError(
            f"{slot}: it is not known what {unlike[0]}, whose heads see by number, would be in a wider model"
        )
    with torch.device("meta"):
        names = list(Decoder(shape).state_dict())
    for name in names:
        if (name.split(".", 2)[2] not in OF_LAYER) if name.startswith("blocks.") else name not in OF_MODEL:
            raise ConfigError(
                f"{slot}: it is not known what {name} would be in a wider model: attention, sliding_window, swiglu, "
                "relu_squared and the norms can grow"
            )


def widen(
    small: Decoder,
    large: ModelConfig,
    places: Places,
    layers: Sequence[int],
    draw: Draw | None = None,
    average: bool = False,
    further: Callable[[int], int] | None = None,
) -> Decoder:
    """The larger model: its layer n begins as the smaller one's layer layers[n].

    draw: (name of a matrix of the larger model, weight_OS of all its outputs and the inputs of the smaller) -> drawn_OT of
    `divided`; None: copies get equal parts.
    average: of the stream, what copies nothing is the mean of the smaller model's channels; False: 0. Norms have 1 there.
    further: the layer of the smaller model that gives the outputs of each layer which copy one that stands before them; None:
    its own. Norms are always a layer's own.
    """
    state, made, found = small.state_dict(), Decoder(large), {}
    for name in made.state_dict():
        rest, layer = name, 0
        if name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            layer = layers[int(number)]
        ends = OF_MODEL[name] if rest == name else OF_LAYER[rest]
        outputs, inputs = places.of(ends[0]), places.of(ends[1])
        weight = state[name if rest == name else f"blocks.{layer}.{rest}"]
        norm = "norm." in rest
        if outputs is not None:
            pad = weight.mean(0) if average and not norm else torch.full((), float(norm and rest.endswith("weight")))
            rows = gather_places(weight, outputs, pad)
            if further is not None and rest != name and not norm:
                other = gather_places(state[f"blocks.{further(layer)}.{rest}"], outputs, pad)
                again = (ranks_of(outputs) > 0).view(-1, *[1] * (weight.ndim - 1))
                rows = torch.where(again, other, rows)
            weight = rows
        if inputs is not None and name == "embedding.weight":
            pad = weight.mean(1) if average else torch.zeros(())
            weight = gather_places(weight.T, inputs, pad).T
        elif inputs is not None:
            weight = split_columns(weight, inputs, draw(name, weight) if draw else None)
        found[name] = weight.contiguous()
    made.load_state_dict(found)
    return made.eval()


def scale_(made: Decoder, factor: float | Tensor) -> None:
    """Multiply what the last norm gives, of each channel or of all, so that a tied head gives the logits that it should."""
    with torch.no_grad():
        for weight in made.norm.parameters():
            weight.mul_(factor)
