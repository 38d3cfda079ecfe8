"""A wider and deeper model from a smaller one's neurons: bert2BERT, Chen et al. 2021 (arXiv:2110.07143), section 3."""

import random
from itertools import pairwise
from typing import Literal

from lm.config import ConfigError
from lm.growing.fitting import check_layers, check_more, check_no_less, check_unchanged
from lm.growing.widths import check_known, counts_of, places_of, scale_, widen
from lm.model import Decoder, ModelConfig

Knowledge = Literal["own", "advanced"]


def layers_of(small: int, large: int) -> list[int]:
    """The layer that each of `large` layers begins as: the stack of `small`, as often as it fits, and then its last layers."""
    return [*range(small)] * (large // small) + [*range(small - large % small, small)]


def check(small: ModelConfig, large: ModelConfig, knowledge: Knowledge, slot: str) -> None:
    """Raises ConfigError, which names the parameter below `slot`, for shapes that are smaller, or the same; and for `advanced`
    knowledge of a layer whose feed-forward layer is of another kind, so that its neurons mean something else."""
    check_unchanged(small, large, slot)
    check_no_less(small, large, slot)
    if large.layers < small.layers:
        raise ConfigError(f"{slot}.layers: {large.layers} is less than the smaller model's {small.layers}")
    check_more(small, large, slot)
    check_layers(small, large, layers_of(small.layers, large.layers), slot)
    check_known(small, slot)
    kinds = [small.layer(layer).feed_forward.name for layer in range(small.layers)]
    for layer, (own, following) in enumerate(pairwise(kinds)):
        if knowledge == "advanced" and own != following:
            raise ConfigError(
                f"{slot}: the smaller model's layer {layer} is {own} and the next {following}, whose neurons are of another "
                "kind: take start.knowledge: own"
            )


def bert2bert(small: Decoder, large: ModelConfig, knowledge: Knowledge, seed: int, slot: str) -> Decoder:
    """The larger model, in evaluation mode: of each axis the smaller one's places in their order, then some drawn at random,
    whose readers divide the weights equally. knowledge: `own`, the weights of what is drawn are those of its own layer (the
    paper's function-preserving initialisation); `advanced`, those of the next layer, and of the last layer its own (its
    advanced knowledge initialisation).
    Raises ConfigError as `check` does."""
    shape = small.config
    check(shape, large, knowledge, slot)
    layers = layers_of(shape.layers, large.layers)
    draw = random.Random(seed)

    def pick(there: int, wanted: int) -> list[int]:
        return [*range(there), *(draw.randrange(there) for _ in range(wanted - there))]

    places = places_of(shape, large, pick)
    further = (lambda layer: min(layer + 1, shape.layers - 1)) if knowledge == "advanced" else None
    made = widen(small, large, places, layers, further=further)
    if large.tied:
        scale_(made, 1 / counts_of(places.stream))
    return made
