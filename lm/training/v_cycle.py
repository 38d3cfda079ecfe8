"""The way down and up of a V-cycle over depth, in place: layers of a group become their mean, and later, interpolated with
what they were, layers of their own again (arXiv:2404.07999).

A group's mean is kept in its first block; the others wait with their weights, so that of blocks only the first ones' are set
aside.
"""

import torch
from torch import Tensor, nn

from lm.depth import Coalesced, Groups, Growth, Interpolated
from lm.model import Decoder


def saved_weights(model: Decoder, groups: Groups) -> dict[str, nn.Parameter]:
    """The weights that a coalesced model trains, by their names: all but those of the blocks that wait."""
    waiting = {block for _, *others in groups for block in others}
    return {name: weight for name, weight in model.named_parameters() if _block_of(name) not in waiting}


def saved_weight_bytes(model: Decoder, method: Growth | None, steps: int) -> int:
    """Bytes of what a run of so many steps sets aside between the two ways; 0 where its model grows otherwise, or does not."""
    changes = [c for step in range(steps) for c in method.grown(len(model.blocks), step, steps)] if method else []
    down = [change for change in changes if isinstance(change, Coalesced)]
    return max((sum(w.nbytes for w in saved_weights(model, change.groups).values()) for change in down), default=0)


@torch.no_grad()
def coalesce_(tensors: dict[str, Tensor], change: Coalesced) -> None:
    """Put the mean of each group's tensors into those of its first block. tensors: by the names of a model's parameters, all of
    them or those that are trained."""
    for first, *others in change.groups:
        for name, tensor in tensors.items():
            if _block_of(name) == first:
                group = [tensor, *(tensors[_of_block(name, block)] for block in others)]
                tensor.copy_(torch.stack(group).mean(0))


@torch.no_grad()
def interpolate_(tensors: dict[str, Tensor], before: dict[str, Tensor], change: Interpolated) -> None:
    """Make every tensor (1 - alpha) before + alpha of its group's, which stands in the group's first block; of one of no block,
    of itself. before: the tensors of `saved_weights`, and of waiting blocks, as they were when the model was coalesced."""
    first_of = {block: group[0] for group in change.groups for block in group}
    for name in sorted(
        tensors, key=lambda name: -_block_of(name)
    ):  # a group's first block, which the others read, last
        block = _block_of(name)
        small = tensors[name] if block < 0 else tensors[_of_block(name, first_of[block])]
        tensors[name].copy_(torch.lerp(before[name], small, change.alpha))


def _block_of(name: str) -> int:
    """The number of the block that a parameter is of; -1: of none."""
    kind, _, rest = name.partition(".")
    return int(rest.partition(".")[0]) if kind == "blocks" else -1


def _of_block(name: str, block: int) -> str:
    """The name of the same parameter of another block."""
    return ".".join(("blocks", str(block), *name.split(".")[2:]))
