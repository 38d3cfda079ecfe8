"""What decided each step of a training run, as a chain of digests: two runs of one digest were the same so far, to the bit.

The digest of no steps is of what decides a run whatever its steps: code, parameters, first weights, libraries, machine. That of
k steps is of the digest before and of what decided step k - 1: the factor of the learning rate, the share in the average of
weights, and the data.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lm.training.recipe import Recipe

# Of the steps at which trunks are kept, the first, and each of the others over the one before: 15 in 1,000 steps, 21 in 10,000
FIRST, RATIO = 8, 2**0.5


def digest_of(*contents: Any) -> str:
    """sha256 of tensors by dtype, shape and bytes, and of anything else as its repr says it."""
    found = hashlib.sha256()
    for content in contents:
        if isinstance(content, Tensor):
            whole = content.detach().cpu().contiguous()
            found.update(f"{whole.dtype} {tuple(whole.shape)}:".encode())
            found.update(whole.flatten().view(torch.uint8).numpy().data)
        else:
            text = repr(content).encode()
            found.update(f"{len(text)}:".encode() + text)
    return found.hexdigest()


class Link(NamedTuple):
    """What decides a step, beside what decides the whole run. seen: a digest of its data."""

    rate: float
    share: float
    seen: str


class Chain:
    """chain[k] is the digest of a run's first k steps. Links are asked for in their order, and as far as is wanted."""

    def __init__(self, decided: dict[str, str], link: Callable[[int], Link]) -> None:
        self._digests, self._link = [digest_of(json.dumps(decided, sort_keys=True))], link
        self.links: list[Link] = []

    def __getitem__(self, steps: int) -> str:
        while len(self._digests) <= steps:
            self.links.append(self._link(len(self.links)))
            self._digests.append(digest_of(self._digests[-1], *self.links[-1]))
        return self._digests[steps]


def link_of(recipe: Recipe, steps: int, seen: Callable[[int], Iterable[Any]], step: int) -> Link:
    """The link of a step in a run of so many. A last share of 1 leaves no mean behind, as a share of 0 does in a longer run."""
    share = recipe.average(step, steps)
    alone = share == 1 and step + 1 == steps and not any(recipe.average(earlier, steps) for earlier in range(step))
    return Link(recipe.schedule(step, steps), 0.0 if alone else share, digest_of(*seen(step)))


def branching(recipe: Recipe, steps: int) -> int:
    """After how many steps the last decay begins, which is where runs of other decays and totals part from this one; 0 for a
    schedule that depends on the total from the first step on, so that nothing can be shared."""
    decay = getattr(recipe.schedule, "decay_fraction", None)
    if decay is None:
        return 0
    constant = recipe.schedule.model_copy(update={"decay_fraction": 0.0})
    return next((s for s in range(steps) if recipe.schedule(s, steps) != constant(s, steps)), steps)


def milestones(last: int) -> set[int]:
    """The numbers of steps, up to the last, after which a run keeps a trunk."""
    found, step = {last} if last >= FIRST else set[int](), float(FIRST)
    while step < last:
        found.add(round(step))
        step *= RATIO
    return found
