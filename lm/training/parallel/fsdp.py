"""Fully sharded data parallelism: each rank holds a part of every weight, gradient and moment, and gathers what it needs."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from lm.exchange import ranks
from lm.model import Decoder
from lm.optimizers.base import SCALARS, Optimizer, State
from lm.optimizers.orthogonal import MuonOptimizer, orthogonalised
from lm.training.batch import Batch, Figures
from lm.training.parallel.ddp import DDP, Call, refuse

Result = TypeVar("Result")


def make_plain(model: Decoder, weights: dict[str, Tensor]) -> None:
    """Replace all that makes it a sharded model, hooks included, by a model of these weights: torch has no way back."""
    plain = Decoder(model.config)
    plain.load_state_dict(weights)
    model.__class__, model.__dict__ = Decoder, plain.to(model.cos_TE.device).__dict__


class FSDP(DDP):
    """torch's fully_shard (FSDP2; Zhao et al. 2023, arXiv:2304.11277), a group a block and one of what is left.

    The optimizer sees the rank's rows of each weight as weights of their own. Where its update needs whole tensors, they are
    gathered for the moment, and every rank computes the same; of one that is orthogonalised the update alone is gathered, and
    the work is shared out.
    offload: weights, gradients and moments are in host memory between uses.
    """

    def __init__(self, offload: bool = False) -> None:
        self._policy = CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if offload else OffloadPolicy()
        self.bytes_a_weight = 0.0 if offload else self.bytes_a_weight / ranks()

    def distribute(self, model: Decoder, method: Any) -> Optimizer:
        whole = {name: weight.to("meta") for name, weight in model.state_dict().items()}
        for block in model.blocks:
            fully_shard(block, offload_policy=self._policy)
        self.module = fully_shard(Call(model), offload_policy=self._policy)
        self._sharded: dict[str, Any] = dict(model.named_parameters())
        self._held = {name: nn.Parameter(w.to_local(), w.requires_grad) for name, w in self._sharded.items()}
        optimizer: Optimizer = method.build([(n, w) for n, w in self._held.items() if w.requires_grad])
        refuse(method, freezes=optimizer.freezes, exchanges=optimizer.exchanges)
        self._names: dict[Tensor, str] = {held: name for name, held in self._held.items()}
        if isinstance(optimizer, MuonOptimizer):
            optimizer.orthogonal = self._orthogonal  # type: ignore[method-assign]
        elif optimizer.whole_tensors:
            optimizer.update = partial(self._update_whole, optimizer.update)  # type: ignore[method-assign]
        self._know(model, optimizer, self._held, whole)
        return optimizer

    def inside(self, call: Callable[[], Result]) -> Result:
        return self.module(call)

    def share(self, batch: Batch, rows: slice, last: bool) -> tuple[Tensor, Figures]:
        share, figures = self.module(batch.loss, rows)
        (share * ranks()).backward()
        return share.detach(), figures

    def clip(self, limit: float) -> Tensor:
        for name, weight in self._sharded.items():
            self._held[name].grad = None if weight.grad is None else weight.grad.to_local()
        grads = [held.grad for held in self._held.values() if held.grad is not None]
        norm = torch.stack(torch._foreach_norm(grads)).square().sum()
        norm = norm.to(self.model.cos_TE.device)
        dist.all_reduce(norm)
        torch._foreach_mul_(grads, (limit / (norm.sqrt() + 1e-6)).clamp(max=1.0).to(grads[0].device))
        return norm.sqrt()

    def forget(self) -> None:
        for weight in [*self._sharded.values(), *self._held.values()]:
            weight.grad = None

    def held(self) -> dict[str, Tensor]:
        return dict(self._held)

    def whole(self, name: str, held: Tensor) -> Tensor:
        like = self._sharded[name]
        local = held.detach().to(like.device_mesh.device_type)
        sharded = DTensor.from_local(local, like.device_mesh, [Shard(0)], shape=like.shape, stride=like.stride())
        return sharded.full_tensor()

    def part(self, name: str, whole: Tensor) -> Tensor:
        return distribute_tensor(whole, self._sharded[name].device_mesh, [Shard(0)], src_data_rank=None).to_local()

    def weights(self) -> dict[str, Tensor]:
        return {name: self.whole(name, held) for name, held in self._held.items()}

    @torch.no_grad()
    def put_weights(self, weights: dict[str, Tensor]) -> None:
        for name, weight in weights.items():
            self._held[name].copy_(self.part(name, weight))

    def finish(self) -> None:
        make_plain(self.model, self.weights())
        super().finish()

    def _orthogonal(self, weights: list[Tensor], updates: list[Tensor], steps: int) -> tuple[list[Tensor], list[int]]:
        """This rank's parts of the orthogonalised matrices whose parts the updates are, and the longer sides of those."""
        names = [self._names[weight] for weight in weights]
        whole = [self.whole(name, update) for name, update in zip(names, updates, strict=True)]
        found, sides = orthogonalised(whole, steps)
        parts = [self.part(name, matrix.contiguous()) for name, matrix in zip(names, found, strict=True)]
        return [part.to(update.device) for part, update in zip(parts, updates, strict=True)], sides

    def _update_whole(
        self,
        update: Callable[..., None],
        weights: list[Tensor],
        grads: list[Tensor],
        state: State,
        group: dict[str, Any],
    ) -> None:
        """The update of tensors gathered for it, of which each rank keeps its part."""
        names = [self._names[weight] for weight in weights]
        lists = {"weight": weights, **{slot: values for slot, values in state.items() if slot not in SCALARS}}
        whole = {key: [self.whole(n, t) for n, t in zip(names, tensors, strict=True)] for key, tensors in lists.items()}
        whole_grads = [self.whole(n, grad) for n, grad in zip(names, grads, strict=True)]
        update(whole["weight"], whole_grads, {**state, **{k: v for k, v in whole.items() if k != "weight"}}, group)
        for key, tensors in lists.items():
            for name, held, new in zip(names, tensors, whole[key], strict=True):
                held.copy_(self.part(name, new))
