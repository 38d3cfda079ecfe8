"""What attention over tiles holds while it works, of which fake tensors show nothing: its operators are one node each, and how
many tiles of keys a tile of queries reads is looked at within.

Letters as in kernels/block_attention/tiles.py.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily

from kernels.block_attention import hashed, operator, tiles
from kernels.block_attention.tiles import Tiles
from lm.mixers import HashedBuckets
from lm.model import Decoder

FORWARD, BACKWARD = {hashed.FORWARD, operator.FORWARD}, {hashed.BACKWARD, operator.BACKWARD}


def buckets_in(model: Decoder) -> int:
    """The fewest buckets that a layer of the model hashes into; 0 where none does."""
    mixers = [model.config.layer(index).mixer for index in range(model.config.layers)]
    return 2 * min((each.rotations for each in mixers if isinstance(each, HashedBuckets)), default=0)


class Tiled:
    """(operator, its arguments) -> bytes that it holds at most, its results among them; 0 for another operator, and for real
    tensors. Every row is one document; all blocks are kept, and a head's tokens fall evenly into so many buckets."""

    def __init__(self, buckets: int, meter: Callable[[], Any]) -> None:
        """meter: a new context whose `now` and `peak` are of what is seen within."""
        self._buckets, self._meter = buckets, meter
        self._known: dict[Any, float] = {}

    def __call__(self, func: Any, args: tuple[Any, ...]) -> float:
        name = func.name()
        if name not in FORWARD | BACKWARD or not isinstance(args[0], FakeTensor):
            return 0.0
        shapes = name, *((each.shape, each.dtype) if isinstance(each, Tensor) else each for each in args)
        if shapes not in self._known:
            self._known[shapes] = self._held(name, args)
        return self._known[shapes]

    def _held(self, name: str, args: tuple[Any, ...]) -> float:
        grad, q, k, v = args[:4] if name in BACKWARD else (None, *args[:3])
        (B, T, H, _), K, block = q.shape, k.shape[2], args[-1]
        X, apart = -(-T // block), name in (hashed.FORWARD, hashed.BACKWARD)
        read = tiles_read(H, K, T, block, self._buckets) if apart else Counter(range(1, X + 1))
        each = B if apart else B * H
        sizes = sizes_of({count: each * alike for count, alike in read.items()}, block**2)
        with self._meter() as live, batches_of(sizes, q), torch.autocast("cpu", enabled=False):
            _ = [each.detach() for each in args if isinstance(each, Tensor)]
            given = live.now  # what it is given is there whether it works or not
            queries, keys = (
                Tiles(q.new_zeros((R, X, block), dtype=torch.int64), q.new_zeros((R, X, block), dtype=torch.int64))
                for R in ((B * H, B * K) if apart else (B, B))
            )
            laid_out = queries, keys, q.new_zeros((B * H, X, X), dtype=torch.bool)
            planes = (planes_of(q), planes_of(k), planes_of(v))
            if grad is None:
                made: Any = tiles.forward(*planes, *laid_out)
            else:
                made = tiles.backward(planes_of(grad), *planes, *laid_out, planes_of(args[-3]), args[-2])
            _ = [x.unflatten(0, (B, -1)).transpose(1, 2).contiguous() for x in made if x.ndim == 3]
        return float(live.peak - given)


def planes_of(x_BTHE: Tensor) -> Tensor:
    """x_PTE, as the operators have it."""
    return x_BTHE.transpose(1, 2).flatten(0, 1)


def tiles_read(H: int, K: int, T: int, block: int, buckets: int) -> Counter[int]:
    """How many tiles of queries of a row read so many tiles of keys, where tokens fall evenly into buckets."""
    with unset_fake_temporarily():
        generator = torch.Generator().manual_seed(0)
        starts = torch.zeros((1, T), dtype=torch.int32)
        q, k = (
            hashed.by_bucket(starts, torch.randint(buckets, (1, T, n), generator=generator), buckets, block)
            for n in (H, K)
        )
        counts: list[int] = hashed.overlapping_tiles(q, k).sum(-1).flatten().tolist()
    return Counter(counts)


def sizes_of(read: dict[int, int], places: int) -> list[tuple[int, int]]:
    """(n, m) of the two batches after each other that are largest together: what the first made is there until the second has
    made its own. places: of a pair of tiles."""
    sizes = [(0, 0)]
    for m, alike in sorted(read.items()):
        most = max(1, tiles.SCORES // (max(m, 1) * places))
        sizes += [(most, m)] * min(alike // most, 2) + [(alike % most, m)]
    found = max(pairwise(sizes), key=lambda two: sum(n * m for n, m in two))
    return [(n, m) for n, m in found if n * m]


@contextmanager
def batches_of(sizes: list[tuple[int, int]], like: Tensor) -> Iterator[None]:
    """Within it tiles are read in batches of these sizes, whatever is kept."""

    def batches(kept_PXY: Tensor, share: int, places: int) -> Iterator[tuple[Tensor, Tensor]]:
        for n, m in sizes:
            yield like.new_zeros(n, dtype=torch.int64), like.new_zeros((n, m), dtype=torch.int64)

    before, tiles.batches = tiles.batches, batches
    try:
        yield
    finally:
        tiles.batches = before
