"""Which blocks a pass goes through: every one in its order, or, while a model grows, some of them, in part, or again.

A model that grows has its final shape from the first step on, so that weights, optimizer state and checkpoints keep theirs;
what a pass does not go through costs nothing.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

Stream = tuple[Tensor, Tensor | None]  # the residual stream, and what waits to be added to it


class Depth(NamedTuple):
    """blocks: of a model, in the order in which a pass goes through them; one that is there twice is passed twice, with the
    same weights. shares: s of each, 0 < s <= 1, where x becomes x + s (block(x) - x). frozen: blocks whose weights are not
    trained meanwhile. A block that is not passed has no gradient, and keeps its weights and its optimizer's state."""

    blocks: tuple[int, ...]
    shares: tuple[float, ...]
    frozen: frozenset[int] = frozenset()


class Grown(NamedTuple):
    """A growth. Block i becomes what block sources[i] was before it: weights, their running mean, and the optimizer's state,
    which of the blocks in `fresh` begins anew. Blocks beyond `sources` stay."""

    sources: tuple[int, ...]
    fresh: frozenset[int] = frozenset()


Groups = tuple[tuple[int, ...], ...]


class Coalesced(NamedTuple):
    """The way down of a V-cycle. Of each group of blocks the first becomes the mean of them; the others wait. What all weights
    were is kept, and the optimizer's state begins anew."""

    groups: Groups


class Interpolated(NamedTuple):
    """The way back up. Every block becomes alpha of its group's first one and 1 - alpha of what it was when it was coalesced,
    all other weights likewise; the optimizer's state begins anew."""

    groups: Groups
    alpha: float


Change = Grown | Coalesced | Interpolated


class Growth(Protocol):
    """How a model of so many layers grows in a run of so many steps. Both follow from what they are given and nothing else, so
    that a run that was killed goes on alike."""

    def depth(self, layers: int, step: int, steps: int) -> Depth | None:
        """What a pass of this step goes through; None: the whole model, as it must be in the last step."""
        ...

    def grown(self, layers: int, step: int, steps: int) -> Sequence[Change]:
        """The changes before this step, one after the other."""
        ...


def block_order(depth: Depth | None, layers: int) -> Sequence[int]:
    """The blocks that a pass goes through, of so many; None: all of them."""
    return range(layers) if depth is None else depth.blocks


def run_blocks(model: Any, contexts: Sequence[Any], x_BTD: Tensor, waiting_BTD: Tensor | None, cache: Any) -> Stream:
    """The stream behind the blocks that a decoder's depth says. contexts: of its layers; where a block is passed twice all
    layers must be alike, and each pass takes the context of the place that it has."""
    depth, blocks = model.depth, model.blocks
    numbers = block_order(depth, len(blocks))
    again = len(set(numbers)) < len(numbers)
    for place, number in enumerate(numbers):
        context = contexts[place if again else number]
        after = model.run_block(blocks[number], x_BTD, waiting_BTD, context, cache)
        share = 1.0 if depth is None else depth.shares[place]
        x_BTD, waiting_BTD = after if share == 1 else interpolate((x_BTD, waiting_BTD), after, share)
    return x_BTD, waiting_BTD


def interpolate(before: Stream, after: Stream, share: float) -> Stream:
    """The stream that is so far on the way from before a block to behind it, all of what waited being in it."""
    (x, waiting), (further, more) = before, after
    start, end = x if waiting is None else x + waiting, further if more is None else further + more
    mixed = torch.lerp(start, end, share)
    return mixed, None if more is None else torch.zeros_like(more)
