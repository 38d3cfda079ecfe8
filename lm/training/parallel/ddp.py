"""Distributed data parallelism: every rank has all weights and a part of the batch, and gradients are summed as they come."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lm.config import ConfigError
from lm.distributed import rank, world_size
from lm.model import Decoder
from lm.optimizers.base import Optimizer
from lm.settings import PARALLEL
from lm.training.batch import Batch, Metrics, equal_parts, number_on, rows_at_once, split_batch
from lm.training.parallel.base import Parallel

Result = TypeVar("Result")


class Call(nn.Module):
    """A call as a module, so that whatever it does with the model happens in a forward of the library's wrapper."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, call: Callable[..., Result], *arguments: Any) -> Result:
        return call(*arguments)


def refuse(method: Any, **needs: bool) -> None:
    """Raise ConfigError for an optimizer that needs something which these ranks cannot give it."""
    reasons = {
        "freezes": "chooses anew in each step which weights have gradients",
        "exchanges": "exchanges gradients itself",
        "whole_tensors": "needs whole tensors",
        "squares": "keeps matrices over all rows and columns of a weight",
        "coded": "keeps its moments in groups of numbers",
        "finishes": "changes the weights after the last update",
    }
    for need, needed in needs.items():
        if needed:
            kind = PARALLEL.read()
            raise ConfigError(
                f"optimizer: {method.name} {reasons[need]}, which TOKENMILL_PARALLEL={kind} does not allow"
            )


class DDP(Parallel):
    """torch's DistributedDataParallel (Li et al. 2020, arXiv:2006.15704): an all-reduce overlaps the backward.

    The order of its sums depends on the ranks, and so do the last bits. An optimizer that exchanges gradients itself, as 1-bit
    Adam does, gets those of the rank's own rows.
    """

    module: Any  # Call, in the library's wrapper

    def distribute(self, model: Decoder, method: Any) -> Optimizer:
        optimizer = super().distribute(model, method)
        refuse(method, freezes=optimizer.freezes)
        self.module = DistributedDataParallel(Call(model), gradient_as_bucket_view=True)
        # they may hold whole matrices, and are the same on every rank; as an argument torch 2.13 warns of it
        self.module.broadcast_buffers = False
        return optimizer

    def backward(self, batch: Batch, positions: int) -> tuple[Tensor, Metrics]:
        mine = split_batch(batch, world_size(), "ranks")[rank()]
        shares: dict[str, Tensor | float] = {}
        for some in equal_parts(mine, rows_at_once(batch, positions), batch.together):
            share, metrics = self.share(batch, some, last=some.stop == mine.stop)
            for name, value in {"": share, **metrics}.items():
                shares[name] = shares.get(name, 0.0) + value
        names, device = sorted(shares), self.model.embedding.weight.device
        summed = torch.stack([number_on(device, shares[name]) for name in names])
        dist.all_reduce(summed)
        found: Metrics = dict(zip(names, summed, strict=True))
        return torch.as_tensor(found.pop("")), found

    @torch.no_grad()
    def evaluate(self, batch: Batch, positions: int) -> Tensor:
        mine = split_batch(batch, world_size(), "ranks")[rank()]
        parts = equal_parts(mine, rows_at_once(batch, positions), batch.together)
        total = torch.stack([self.module(batch.loss, some)[0].float() for some in parts]).sum()
        dist.all_reduce(total)
        return total

    def share(self, batch: Batch, rows: slice, last: bool) -> tuple[Tensor, Metrics]:
        """(loss, metrics) of the rows, after their backward; `last`: of the rank's rows in this step."""
        alone = self.optimizer.exchanges or not last
        with self.module.no_sync() if alone else nullcontext():
            share, metrics = self.module(batch.loss, rows)
            # the mean over ranks is then their sum
            (share * world_size()).backward()
        return share.detach(), metrics

    def clip(self, limit: float) -> Tensor:
        """An optimizer that exchanges gradients itself has those of the rank clipped; the norm is then the ranks' mean."""
        norm = super().clip(limit)
        if self.optimizer.exchanges:
            dist.all_reduce(norm)
            norm /= world_size()
        return norm

    def slots(self) -> dict[str, Tensor]:
        """The optimizer's state as <slot>.<parameter>, whole; of state that is a rank's own, that of all ranks, one row
        each."""
        found = super().slots()
        for key, value in found.items():
            if key.partition(".")[0] in self.optimizer.own_slots:
                rows = [torch.empty_like(value) for _ in range(world_size())]
                dist.all_gather(rows, value)
                found[key] = torch.stack(rows)
        return found

    def load_optimizer_state(self, slots: dict[str, Tensor]) -> None:
        """State that is a rank's own comes back where there are as many ranks; else it begins anew."""
        own = {key for key in slots if key.partition(".")[0] in self.optimizer.own_slots}
        kept = {key: value for key, value in slots.items() if key not in own}
        super().load_optimizer_state(kept | {key: slots[key][rank()] for key in own if len(slots[key]) == world_size()})
