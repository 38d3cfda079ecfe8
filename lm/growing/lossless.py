"""A wider and deeper model that is the smaller one's function at widths that are no multiples: LEMON, Wang et al. 2023
(arXiv:2310.07999), section 4.

Of the stream's D channels in the larger model, k copies of the smaller one's d come first and then D - k d more, where k is
D / d rounded down. These are 0 under RMSNorm, and under LayerNorm the mean of the d, which the norm makes 0.
"""

import math

import torch
from torch import Tensor

from lm.config import ConfigError
from lm.growing.fitting import check_layers, check_more, check_no_less, check_unchanged
from lm.growing.widths import WRITES, check_known, in_turn, places_of, scale_, widen
from lm.model import Decoder, ModelConfig


def layers_of(small: int, large: int) -> list[tuple[int, bool]]:
    """(layer of the smaller model that a layer begins as, whether it is new), of `large` layers, at most twice `small`: behind
    each of the last layers of the smaller model stands a new one."""
    alone = 2 * small - large
    return [(layer, False) for layer in range(alone)] + [
        (layer, new) for layer in range(alone, small) for new in (False, True)
    ]


def check(small: ModelConfig, large: ModelConfig, slot: str) -> None:
    """Raises ConfigError, which names the parameter below `slot`, for shapes that are smaller, more than twice as deep, or the
    same."""
    check_unchanged(small, large, slot)
    check_no_less(small, large, slot)
    if not small.layers <= large.layers <= 2 * small.layers:
        raise ConfigError(
            f"{slot}.layers: {large.layers} is not between the smaller model's {small.layers} and twice as many, which is the "
            "most that a new layer behind each makes"
        )
    check_more(small, large, slot)
    check_layers(small, large, [layer for layer, _ in layers_of(small.layers, large.layers)], slot)
    check_known(small, slot)


def lossless(small: Decoder, large: ModelConfig, scale: float, seed: int, slot: str) -> Decoder:
    """The larger model, in evaluation mode. Weights that read copies of one channel are random, of `scale` times the standard
    deviation of a new model's, moved by an equal amount so that they sum to the smaller model's: copies get gradients of their
    own. New layers add nothing to the stream; what else they have is that of the layer before.
    Raises ConfigError as `check` does."""
    shape = small.config
    check(shape, large, slot)
    layers = layers_of(shape.layers, large.layers)
    copies = large.width // shape.width
    used = copies * shape.width
    places = places_of(shape, large, in_turn, stream=[*in_turn(shape.width, used), *[-1] * (large.width - used)])
    fresh = Decoder(large, seed).state_dict()

    def draw(name: str, weight_OS: Tensor) -> Tensor:
        return fresh[name] * scale

    average = large.norm.name == "layer_norm"
    made = widen(small, large, places, [layer for layer, _ in layers], draw, average)
    _enlarge_stream_(made, math.sqrt(large.width / used), used)
    if large.tied:
        scale_(made, math.sqrt(used / large.width) / copies)
    with torch.no_grad():
        for index, (_, new) in enumerate(layers):
            for name in WRITES if new else ():
                made.get_parameter(f"blocks.{index}.{name}").zero_()
    return made


@torch.no_grad()
def _enlarge_stream_(made: Decoder, factor: float, used: int) -> None:
    """Multiply all that is written into the stream, and divide the first `used` weights of what norms give by as much. The mean
    square of the stream, or its variance, then is the smaller model's, so that norm_eps may stay."""
    for name, weight in made.named_parameters():
        if name == "embedding.weight" or name.endswith(WRITES):
            weight.mul_(factor)
        elif name == "norm.weight" or name.endswith(("attention_norm.weight", "ffn_norm.weight")):
            weight[:used] /= factor
