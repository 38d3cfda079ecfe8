"""Models of some of another's heads and channels, whose weights are the other's.

Letters: H query heads, K key/value heads, E head width, F channels of a feed-forward layer, D width, N tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lm.calibration import Batch, collect_layer_inputs
from lm.config import ConfigError
from lm.model import Decoder, ModelConfig

# What of a layer is known to be heads', and what every head has alike
PARTS = ("query", "key", "value", "output", "query_norm", "key_norm")


def top_indices(scores: Sequence[float], count: int) -> list[int]:
    """Places of the `count` highest scores, in their order; of equals the first."""
    order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    return sorted(order[:count])


def shape_of(shape: ModelConfig, heads: int, ffn_width: int, slot: str) -> ModelConfig:
    """The shape with so many query heads and channels, 0 for as many as there are; a head keeps its width. Raises ConfigError,
    which names the parameter `slot`.heads, where heads cannot be told evenly to the key/value heads."""
    heads = heads or shape.heads
    if shape.heads > shape.kv_heads and heads % shape.kv_heads:
        raise ConfigError(f"{slot}.heads: {heads} is no multiple of the model's kv_heads, {shape.kv_heads}")
    more = {"heads": heads, "ffn_width": ffn_width or shape.ffn_width, "head_width": shape.head_dim}
    if shape.heads == shape.kv_heads:
        more["kv_heads"] = heads
    if more["head_width"] * heads == shape.width and not shape.head_width:
        more["head_width"] = 0
    return shape.model_copy(update=more)


def check_units(model: Decoder, heads: int, slot: str) -> None:
    """Raises ConfigError, which begins with `slot`, for layers that are neither attention nor a feed-forward layer with `up`
    and `down`, where so many query heads are to stay, 0 for all."""
    if any(block.embeddings is not None for block in model.blocks):
        raise ConfigError(f"{slot}: heads and channels of layers that have embeddings cannot be cut: cut layers")
    if any(block.depths is not None for block in model.blocks):
        raise ConfigError(f"{slot}: heads and channels of layers that tokens go past cannot be cut: cut layers")
    weights = dict(model.named_parameters())
    if missing := [name for name in read_by(model) if name not in weights]:
        raise ConfigError(
            f"{slot}: heads and channels of this model's layers cannot be told apart: it has no {missing[0]}"
        )
    mixers = [model.config.layer(number).mixer for number in range(model.config.layers)]
    if 0 < heads < model.config.heads and (unlike := [mixer.name for mixer in mixers if not mixer.heads_alike]):
        raise ConfigError(
            f"{slot}: what a head of {unlike[0]} sees depends on its number, so heads cannot be cut: cut layers"
        )
    inner = [name for name in weights if name.split(".")[2:3] == ["attention"] and 0 < heads < model.config.heads]
    if other := [name for name in inner if name.split(".")[3] not in PARTS]:
        raise ConfigError(f"{slot}: heads of this model's layers cannot be told apart in {other[0]}: cut layers")


def read_by(model: Decoder) -> list[str]:
    """Names of the weights that read heads and channels, of each layer the two."""
    parts = ("attention.output", "ffn.down")
    return [f"blocks.{number}.{part}.weight" for number in range(model.config.layers) for part in parts]


def with_units(model: Decoder, heads: int, ffn_width: int, score: Any, batches: list[Batch], slot: str) -> Decoder:
    """The model of the highest-scored heads and channels of each layer: as many in each, query heads as many for each key/value
    head. Raises ConfigError as `check_units` and `shape_of`."""
    shape, names = model.config, read_by(model)
    check_units(model, heads, slot)
    made = Decoder(shape_of(shape, heads, ffn_width, slot)).to(model.embedding.weight.device)
    made.load_state_dict({n: w for n, w in model.state_dict().items() if not n.startswith("blocks.")}, strict=False)
    pairs: Any = zip(model.blocks, made.blocks, strict=True)
    for n, (old, new) in enumerate(pairs):
        # a layer at a time: what all of them have seen is far more than the model
        inputs = collect_layer_inputs(model, names[2 * n : 2 * n + 2], batches) if score.needs_inputs else {}
        new.attention_norm.load_state_dict(old.attention_norm.state_dict())
        new.ffn_norm.load_state_dict(old.ffn_norm.state_dict())
        if made.config.heads < shape.heads:
            of_heads = score(old.attention.output.weight, inputs.get(names[2 * n]), shape.head_dim)
            _cut_heads(old.attention, new.attention, kept_head_indices(of_heads, shape, made.config), shape)
        else:
            new.attention.load_state_dict(old.attention.state_dict())
        channels = top_indices(score(old.ffn.down.weight, inputs.get(names[2 * n + 1]), 1), made.config.ffn_width)
        _cut_channels(old.ffn, new.ffn, torch.tensor(channels, device=made.embedding.weight.device))
    return made.eval()


def kept_head_indices(scores_H: list[float], shape: ModelConfig, smaller: ModelConfig) -> list[int]:
    """Query heads that stay: the highest-scored of each key/value head's, as many for each; where each query head has a
    key/value head of its own, the highest-scored."""
    if shape.heads == shape.kv_heads:
        return top_indices(scores_H, smaller.heads)
    group, each = shape.heads // shape.kv_heads, smaller.heads // smaller.kv_heads
    groups = [scores_H[first : first + group] for first in range(0, shape.heads, group)]
    return [number * group + place for number, some in enumerate(groups) for place in top_indices(some, each)]


def _rows_of_heads(heads: Sequence[int], width: int) -> Tensor:
    return torch.tensor([head * width + place for head in heads for place in range(width)])


def _cut_heads(old: Any, new: Any, heads: list[int], shape: ModelConfig) -> None:
    """Give the smaller attention the weights of these heads; norms of heads are all heads' alike."""
    device = old.output.weight.device
    rows = _rows_of_heads(heads, shape.head_dim).to(device)
    own = shape.heads == shape.kv_heads
    pairs = rows if own else torch.arange(shape.kv_heads * shape.head_dim, device=device)
    state: dict[str, Tensor] = {}
    for name, weight in old.state_dict().items():
        part = name.partition(".")[0]
        if part == "output":
            weight = weight[:, rows] if weight.ndim == 2 else weight
        elif part in ("query", "key", "value"):
            weight = weight[rows if part == "query" else pairs]
        state[name] = weight
    new.load_state_dict(state)


def _cut_channels(old: Any, new: Any, channels_F: Tensor) -> None:
    """Give the smaller feed-forward layer the weights of these channels."""
    state = {
        name: weight[:, channels_F] if name.startswith("down.") else weight[channels_F]
        for name, weight in old.state_dict().items()
    }
    new.load_state_dict(state)
