"""Ranks that give the same bits as one process: each sums its shards of the batch, and all sums are of one tree."""

from typing import Any

import torch
from torch import Tensor

from lm.config import ConfigError
from lm.exchange import rank, ranks
from lm.model import Decoder
from lm.optimizers.base import Optimizer
from lm.training.batch import Batch, Figures, backward, cut, number_on
from lm.training.parallel.base import Parallel
from lm.training.parallel.tree import Tree, sum_over_ranks_


class Exact(Parallel):
    """A batch is cut into `shards` of as many rows each, a power of two, whatever the ranks, which must divide them.

    Each rank updates all weights with all gradients. How many positions a backward pass holds follows from the memory of a
    machine that runs every shard at once, so it is no different with fewer ranks; threads must be as many too.
    """

    def __init__(self, shards: int) -> None:
        if ranks() > shards:  # both are powers of two, else ranks() would not divide either
            raise ConfigError(
                f"shards: {shards} cannot be divided among {ranks()} ranks: set it to {ranks()} or more in this stage's "
                "section, or train in other bits with TOKENMILL_PARALLEL=ddp"
            )
        if ranks() & (ranks() - 1):
            raise ConfigError(f"TOKENMILL_RANKS: {ranks()} is no power of two, and shards are")
        self.shards = shards

    def distribute(self, model: Decoder, method: Any) -> Optimizer:
        optimizer = super().distribute(model, method)
        if optimizer.exchanges and ranks() > 1:
            raise ConfigError(f"optimizer: {method.name} gives other bits for other ranks: set TOKENMILL_PARALLEL=ddp")
        return optimizer

    def memory_share(self, device: torch.device) -> float:
        return 1.0 if device.type == "cuda" else 1 / self.shards

    def backward(self, batch: Batch, positions: int) -> tuple[Tensor, Figures]:
        if self.shards == 1:
            return backward(batch, positions)
        each, tree, weights = self.shards // ranks(), Tree(), list(self.held().values())
        present = [False] * len(weights)
        for rows in cut(batch.rows, self.shards, "shards")[rank() * each : (rank() + 1) * each]:
            self.forget()
            loss, figures = backward(batch, positions, rows)
            names = sorted(figures)
            present = [seen or weight.grad is not None for seen, weight in zip(present, weights, strict=True)]
            tree.add(self._flat([loss, *(figures[name] for name in names)]))
        total = tree.sum()
        if ranks() > 1:
            sum_over_ranks_(total)
        loss, *values = self._unflatten(total, 1 + len(names), self.any(*present))
        return loss, dict(zip(names, values, strict=True))

    def _flat(self, numbers: list[Tensor | float]) -> Tensor:
        """The gradients, then the numbers; zeros to a multiple of the shards."""
        weights = list(self.held().values())
        found = [torch.zeros_like(w).flatten() if w.grad is None else w.grad.flatten() for w in weights]
        device = found[0].device
        found += [torch.stack([number_on(device, number) for number in numbers])]
        spare = -sum(part.numel() for part in found) % self.shards
        return torch.cat([*found, torch.zeros(spare, device=device)])

    def _unflatten(self, total: Tensor, numbers: int, present: list[bool]) -> list[Tensor]:
        """Give the weights that have a gradient theirs, and return the numbers."""
        weights = list(self.held().values())
        sizes = [weight.numel() for weight in weights]
        *grads, rest = total.split([*sizes, len(total) - sum(sizes)])
        for weight, grad, has_one in zip(weights, grads, present, strict=True):
            weight.grad = grad.view_as(weight) if has_one else None
        return list(rest[:numbers].clone())
