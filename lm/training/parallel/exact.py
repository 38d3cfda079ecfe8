"""Ranks that give the same bits as one process: each sums its shards of the batch, and all sums are of one tree."""

from typing import Any

import torch
from torch import Tensor

from lm.config import ConfigError
from lm.distributed import rank, world_size
from lm.model import Decoder
from lm.optimizers.base import Optimizer
from lm.training.batch import Batch, Metrics, backward, evaluate, split_batch
from lm.training.parallel.base import Parallel
from lm.training.parallel.sums import Sums
from lm.training.parallel.tree import Tree, sum_over_ranks_


class Exact(Parallel):
    """A batch is cut into `shards` of as many rows each, a power of two, whatever the ranks, which must divide them.

    Each rank updates all weights with all gradients, which are exchanged while the last backward goes on. How many positions a
    backward pass holds follows from the memory of a machine that runs every shard at once, so it is no different with fewer
    ranks; threads must be as many too.
    """

    def __init__(self, shards: int) -> None:
        world = world_size()
        if world > shards:  # both are powers of two, else they would not divide either
            raise ConfigError(
                f"shards: {shards} cannot be divided among {world} ranks: set it to {world} or more in this stage's section, "
                "or train in other bits with TOKENMILL_PARALLEL=ddp"
            )
        if world_size() & (world_size() - 1):
            raise ConfigError(f"TOKENMILL_RANKS: {world_size()} is no power of two, and shards are")
        self.shards = shards

    def distribute(self, model: Decoder, method: Any) -> Optimizer:
        optimizer = super().distribute(model, method)
        if optimizer.exchanges and world_size() > 1:
            raise ConfigError(f"optimizer: {method.name} gives other bits for other ranks: set TOKENMILL_PARALLEL=ddp")
        self._sums = Sums(list(self.trainable_parameters().values()), self.shards) if self.shards > 1 else None
        return optimizer

    def memory_share(self, device: torch.device) -> float:
        return 1.0 if device.type == "cuda" else 1 / self.shards

    def backward(self, batch: Batch, positions: int) -> tuple[Tensor, Metrics]:
        if self._sums is None:
            return backward(batch, positions)
        each = self.shards // world_size()
        mine = split_batch(batch, self.shards, "shards")[rank() * each : (rank() + 1) * each]
        for rows in mine:
            loss, metrics = backward(batch, positions, rows, self._sums.watch if rows is mine[-1] else None)
            names = sorted(metrics)
            self._sums.add([loss, *(metrics[name] for name in names)])
        loss, *values = self._sums.assign_gradients(1 + len(names))
        return loss, dict(zip(names, values, strict=True))

    def evaluate(self, batch: Batch, positions: int) -> Tensor:
        each, tree = self.shards // world_size(), Tree()
        for rows in split_batch(batch, self.shards, "shards")[rank() * each : (rank() + 1) * each]:
            # as many equal numbers as there are ranks, which sum them by halves
            tree.add(evaluate(batch, positions, rows).repeat(world_size()))
        total = tree.sum()
        if world_size() > 1:
            sum_over_ranks_(total)
        return total[0]

    def finish(self) -> None:
        if self._sums:
            self._sums.close()
        super().finish()
