"""Whether a larger model can begin as a smaller one: what of their shapes is the same, and what may be more."""

from collections.abc import Sequence
from typing import Any

from lm.config import ConfigError
from lm.model import ModelConfig

# What the function of a model hangs on, and no start changes
KEPT = (
    "norm",
    "norm_eps",
    "rope_theta",
    "rope_scaling",
    "qk_norm",
    "qkv_bias",
    "tied",
    "causal",
    "vocab_size",
    "logit_softcap",
)
WIDTHS = ("width", "heads", "kv_heads", "ffn_width")


def check_unchanged(small: ModelConfig, large: ModelConfig, slot: str, more: Sequence[str] = ()) -> None:
    """Raises ConfigError, which names the parameter below `slot`, where shapes differ in what stays, or in one of `more`."""
    for name in (*KEPT, *more):
        mine, theirs = getattr(large, name), getattr(small, name)
        if mine != theirs:
            raise ConfigError(
                f"{slot}.{name}: {_said(mine)}, and this start keeps what the smaller model has: {_said(theirs)}"
            )
    if large.head_dim != small.head_dim:
        raise ConfigError(
            f"{slot}.head_width: heads are {large.head_dim} wide, and the smaller model's {small.head_dim}, which stays: give "
            f"head_width {small.head_dim}, or more heads"
        )
    if large.of_input != small.of_input:
        raise ConfigError(f"{slot}.embeddings: the smaller model has others, and this start keeps them")


def check_layers(small: ModelConfig, large: ModelConfig, layers: Sequence[int], slot: str) -> None:
    """Raises ConfigError where a layer has other parts than the smaller model's layer that it begins as, whose number is
    layers[layer]."""
    for mine, theirs in enumerate(layers):
        if large.layer(mine) != small.layer(theirs):
            raise ConfigError(
                f"{slot}: layer {mine} would begin as the smaller model's layer {theirs}, whose mixer, feed-forward layer or "
                "embeddings are others: give both models the same, with a pattern that repeats"
            )


def check_no_less(small: ModelConfig, large: ModelConfig, slot: str, multiples: bool = False) -> None:
    """Raises ConfigError for a width below the smaller model's, or, with `multiples`, one that is no multiple of it."""
    sizes = [(name, getattr(large, name), getattr(small, name)) for name in WIDTHS]
    groups = ("heads for each key/value head", large.heads // large.kv_heads, small.heads // small.kv_heads)
    for name, mine, theirs in [*sizes, groups]:
        if mine < theirs:
            raise ConfigError(f"{slot}: {mine} {name}, less than the smaller model's {theirs}: nothing is cut here")
        if multiples and mine % theirs:
            raise ConfigError(f"{slot}: {mine} {name}, no multiple of the smaller model's {theirs}")


def check_more(small: ModelConfig, large: ModelConfig, slot: str) -> None:
    """Raises ConfigError where nothing is larger than in the smaller model."""
    sizes = (*WIDTHS, "layers")
    if [getattr(large, name) for name in sizes] == [getattr(small, name) for name in sizes]:
        raise ConfigError(
            f"{slot}: no larger than the smaller model in any of {', '.join(sizes)}: make one of them larger"
        )


def _said(value: Any) -> Any:
    return getattr(value, "name", value)
