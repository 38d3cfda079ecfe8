"""Sums in one order, however many ranks share the work: a binary tree whose leaves are the shards of a batch.

Floating-point addition commutes but does not associate, so bits depend on the tree alone. Ranks hold neighbouring leaves, as
many each: a power of two of them is a whole subtree.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from lm.distributed import rank, world_size


class Tree:
    """A sum of leaves that come one by one, with no more vectors held than the tree is high."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, Tensor]] = []  # (leaves, their sum): from many leaves to few

    def add(self, leaf_N: Tensor) -> None:
        """Add the next leaf, which the tree may change and keep."""
        leaves = 1
        while self._waiting and self._waiting[-1][0] == leaves:
            leaf_N = self._waiting.pop()[1].add_(leaf_N)
            leaves *= 2
        self._waiting.append((leaves, leaf_N))

    def sum(self) -> Tensor:
        """Sum of all leaves. Raises ValueError unless they were a power of two."""
        if len(self._waiting) != 1:
            raise ValueError(f"{sum(n for n, _ in self._waiting)} leaves are no power of two")
        return self._waiting[0][1]


def sum_over_ranks_(values_N: Tensor) -> None:
    """Each rank's values become the sum over all, added in the order of a binary tree; N is a multiple of the ranks, which
    are a power of two.

    Recursive halving, then doubling (Thakur, Rabenseifner and Gropp 2005, section 4.5): a rank sends 2 N (1 - 1 / ranks)
    values, as few as a ring, whose order of sums would depend on the ranks. Neighbours begin, since they hold the lowest
    subtrees.
    """
    me, world = rank(), world_size()
    low, high = 0, len(values_N)
    halved: list[tuple[int, int, int]] = []
    distance = 1
    while distance < world:
        partner, middle = me ^ distance, (low + high) // 2
        halved.append((partner, low, high))
        kept, given = ((low, middle), (middle, high)) if me < partner else ((middle, high), (low, middle))
        got = torch.empty_like(values_N[slice(*kept)])
        _swap(values_N[slice(*given)], got, partner)
        values_N[slice(*kept)] += got
        low, high = kept
        distance *= 2
    for partner, whole_low, whole_high in reversed(halved):
        other = (whole_low, low) if low > whole_low else (high, whole_high)
        _swap(values_N[low:high], values_N[slice(*other)], partner)
        low, high = whole_low, whole_high


def _swap(given: Tensor, got: Tensor, partner: int) -> None:
    """Send one tensor to the partner and receive the other from it."""
    for work in dist.batch_isend_irecv([dist.P2POp(dist.isend, given, partner), dist.P2POp(dist.irecv, got, partner)]):
        work.wait()
