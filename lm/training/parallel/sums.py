"""The gradients of a step summed over shards and ranks, bucket by bucket, while the last backward goes on."""

from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from lm.distributed import world_size
from lm.training.batch import number_on
from lm.training.parallel.tree import Tree, sum_over_ranks_

# Of a bucket at least: that of DDP (Li et al. 2020, arXiv:2006.15704, section 5.3). A model below it is one exchange.
BUCKET_BYTES = 25 << 20


def in_buckets(weights: list[Tensor]) -> list[list[Tensor]]:
    """The weights from the last to the first, about as a backward makes their gradients, in runs of BUCKET_BYTES or more; the
    last run is what is left."""
    buckets: list[list[Tensor]] = [[]]
    for weight in reversed(weights):
        if sum(other.nbytes for other in buckets[-1]) >= BUCKET_BYTES:
            buckets.append([])
        buckets[-1].append(weight)
    return buckets


class Sums:
    """Sums of gradients over a step's shards and the ranks. In a step: `add` after the backward of each shard, `watch` before
    the last of them, then `assign_gradients`.

    A bucket of gradients is one vector, to which zeros are added up to a multiple of the shards, so that ranks can halve it. An
    entry is added in the order of the one tree, on any number of ranks and in any bucket. Watched, a bucket is summed over the
    ranks from the moment when the last of its gradients is made. Buckets are exchanged in their order, the same on every rank;
    the last, which has the first layer, goes after the backward and takes the step's other numbers along.
    """

    def __init__(self, weights: list[Tensor], shards: int) -> None:
        self._weights, self._shards, self._buckets = weights, shards, in_buckets(weights)
        self._place = {weight: place for place, bucket in enumerate(self._buckets) for weight in bucket}
        self._exchange = Exchange(weights[0].device) if world_size() > 1 else None
        learning = [weight for weight in weights if weight.requires_grad] if self._exchange else []
        self._hooks = [weight.register_post_accumulate_grad_hook(self._made) for weight in learning]
        self._begin()

    def _begin(self) -> None:
        """A step. Of the buckets, _left: gradients that the watched backward has yet to make; _trees: of the rank's shards;
        _totals: of the first ones, which are exchanged. _had: the weights that had a gradient on this rank."""
        self._left: list[int] = []
        self._trees = [Tree() for _ in self._buckets]
        self._totals: list[Tensor] = []
        self._had: set[Tensor] = set()

    def watch(self) -> None:
        """Take any gradient that is made from now on for the last of its weight in this step, on this rank."""
        self._left = [sum(weight.requires_grad for weight in bucket) for bucket in self._buckets]

    def _made(self, weight: Tensor) -> None:
        if not self._left:
            return
        self._left[self._place[weight]] -= 1
        while (place := len(self._totals)) < len(self._buckets) - 1 and not self._left[place]:
            self._trees[place].add(self._leaf(self._buckets[place]))
            self._total(self._trees[place].sum())

    def _total(self, total: Tensor) -> None:
        """The rank's sum of the next bucket, to be summed over the ranks."""
        self._totals.append(total)
        if self._exchange:
            self._exchange.begin(total)

    def add(self, numbers: list[Tensor | float]) -> None:
        """The gradients of a shard and the numbers that go with it. The weights are left without a gradient."""
        for place in range(len(self._totals), len(self._buckets) - 1):
            self._trees[place].add(self._leaf(self._buckets[place]))
        like = self._weights[0]
        row = torch.stack([number_on(like.device, number) for number in numbers])
        flags = torch.zeros(len(self._weights), device=like.device)
        self._trees[-1].add(self._leaf(self._buckets[-1], row, flags))

    def _leaf(self, bucket: list[Tensor], *more: Tensor) -> Tensor:
        parts = [torch.zeros_like(w).flatten() if w.grad is None else w.grad.flatten() for w in bucket] + list(more)
        spare = -sum(part.numel() for part in parts) % self._shards
        leaf = torch.cat([*parts, parts[0].new_zeros(spare)])
        self._had.update(weight for weight in bucket if weight.grad is not None)
        for weight in bucket:
            weight.grad = None
        return leaf

    def assign_gradients(self, numbers: int) -> list[Tensor]:
        """Give each weight its gradient, None where no shard of any rank had one; returns the sums of so many numbers."""
        for tree in self._trees[len(self._totals) : -1]:
            self._total(tree.sum())
        last, begin = self._trees[-1].sum(), sum(weight.numel() for weight in self._buckets[-1])
        found, flags = last[begin : begin + numbers], last[begin + numbers :][: len(self._weights)]
        had = [weight in self._had for weight in self._weights]
        if self._exchange:
            flags.copy_(torch.tensor(had))
        self._total(last)
        if self._exchange:
            self._exchange.wait()
            had = (flags > 0).tolist()
        present = {weight for weight, has_one in zip(self._weights, had, strict=True) if has_one}
        for bucket, total in zip(self._buckets, self._totals, strict=True):
            sizes = [weight.numel() for weight in bucket]
            for weight, grad in zip(bucket, total[: sum(sizes)].split(sizes), strict=True):
                weight.grad = grad.view_as(weight) if weight in present else None
        self._begin()
        return list(found.clone())

    def close(self) -> None:
        """Leave the weights as they were found."""
        for hook in self._hooks:
            hook.remove()


class Exchange:
    """Sums over the ranks beside other work, one after the other as they are begun: on a GPU by a stream, else by a thread."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(1)  # starts with its first work
        self._begun: list[Future[None]] = []

    def begin(self, values_N: Tensor) -> None:
        """Sum these in place, which are not to be used before `wait`."""
        if self._stream is None:
            self._begun.append(self._thread.submit(sum_over_ranks_, values_N))
            return
        self._stream.wait_stream(torch.cuda.current_stream(values_N.device))
        with torch.cuda.stream(self._stream):
            sum_over_ranks_(values_N)  # the host does not wait: it hands NCCL's works to the stream

    def wait(self) -> None:
        """Wait for all that was begun. Raises what one of them raised, such as RuntimeError for a rank that has ended."""
        for begun in self._begun:
            begun.result()
        self._begun.clear()
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
