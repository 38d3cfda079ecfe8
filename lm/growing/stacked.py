"""A deeper model of a smaller one's layers, again and again: G_stack, Du et al. 2024 (arXiv:2405.15319), section 3."""

from typing import Literal

from lm.config import ConfigError
from lm.growing.fitting import WIDTHS, check_layers, check_unchanged
from lm.model import Decoder, ModelConfig

Order = Literal["whole", "interleaved"]


def order_of(small: int, large: int, order: Order) -> list[int]:
    """The layer that each of `large` layers begins as, of `small`: `whole`, 0 1 2 0 1 2, the stack upon itself; `interleaved`,
    0 0 1 1 2 2, each layer upon itself. `large` must be a multiple of `small`."""
    return [layer % small if order == "whole" else layer * small // large for layer in range(large)]


def check(small: ModelConfig, large: ModelConfig, order: Order, slot: str) -> list[int]:
    """The layer that each of the larger model's begins as. Raises ConfigError, which names the parameter below `slot`, for
    shapes that differ in more than the number of layers, and for a number that is no multiple."""
    check_unchanged(small, large, slot, WIDTHS)
    if large.layers % small.layers or large.layers == small.layers:
        raise ConfigError(f"{slot}.layers: {large.layers} is not two or more times the smaller model's {small.layers}")
    layers = order_of(small.layers, large.layers, order)
    check_layers(small, large, layers, slot)
    return layers


def stacked(small: Decoder, large: ModelConfig, order: Order, slot: str) -> Decoder:
    """The larger model, in evaluation mode: its layers are copies of the smaller one's. It is not the smaller one's function.
    Raises ConfigError as `check` does."""
    layers = check(small.config, large, order, slot)
    made = Decoder(large)
    made.load_state_dict({n: w for n, w in small.state_dict().items() if not n.startswith("blocks.")}, strict=False)
    for mine, theirs in enumerate(layers):
        made.blocks[mine].load_state_dict(small.blocks[theirs].state_dict())
    return made.eval()
