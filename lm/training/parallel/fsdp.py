"""Fully sharded data parallelism: each rank holds a part of every weight, gradient and moment, and gathers what it needs."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from lm.distributed import mean_, world_size
from lm.linears.base import products_of, rates_of, roles_of
from lm.model import HEADS, Decoder
from lm.optimizers.base import SCALARS, Optimizer, State, with_rates
from lm.optimizers.orthogonal import Iteration, MuonOptimizer, orthogonalised
from lm.training.batch import Batch, Metrics
from lm.training.memory import SHARE, memory_bytes
from lm.training.parallel.ddp import DDP, Call, refuse
from lm.training.precision import matmul_dtype
from lm.training.recipe import Recipe

Result = TypeVar("Result")


def make_plain(model: Decoder, weights: dict[str, Tensor]) -> None:
    """Replace all that makes it a sharded model, hooks included, by a model of these weights: torch has no way back."""
    plain = Decoder(model.config)
    if model.prompt is not None:  # of vectors, which are whole on every rank
        plain.set_prompt(model.prompt)
    plain.reparametrize(model.linear)
    if (carried := getattr(model, HEADS, None)) is not None:  # no group of its own: its parameters alone are cut
        for name, _ in list(carried.named_parameters()):
            place, _, last = name.rpartition(".")
            setattr(
                carried.get_submodule(place), last, nn.Parameter(weights[f"{HEADS}.{name}"].to(plain.cos_TE.device))
            )
        plain.add_module(HEADS, carried)
    plain.load_state_dict(weights)
    for name, buffer in plain.named_buffers():  # what a matrix is held by beside weights
        buffer.copy_(model.get_buffer(name))
    model.__class__, model.__dict__ = Decoder, plain.to(model.cos_TE.device).__dict__


def dtype_of_block(block: nn.Module, dtype: torch.dtype) -> torch.dtype:
    """Type that a block's matrices can be gathered in, where its products have this dtype: a group has one, so fp32 if autocast
    rounds not all of them, or something else is computed of one before (`products_of`)."""
    linear = [each for each in block.modules() if isinstance(each, nn.Linear)]
    return dtype if len(products_of(block)) == len(linear) else torch.float32


def _square(grads: list[Tensor]) -> Tensor:
    """Square of the norm of all gradients together."""
    return torch.stack(torch._foreach_norm(grads)).square().sum() if grads else torch.zeros(())


class FSDP(DDP):
    """torch's fully_shard (FSDP2; Zhao et al. 2023, arXiv:2304.11277), a group a block and one of what is left.

    Matrices are cut by rows, and the optimizer sees the rank's rows of each as weights of their own. Where its update needs
    whole tensors, they are gathered for the moment, and every rank computes the same; of one that is orthogonalised the update
    alone is gathered, and the work is shared out. Vectors, of norms and biases, are on every rank: they are few, and stay fp32.
    What autocast would round to bf16 at each use, a block's matrices, is gathered in bf16, and in fp32 those of a block
    that has one which is used otherwise (`dtype_of_block`); the embedding, whose rows begin the residual stream in fp32, and
    with it the head, in fp32. Gradients are summed in fp32.
    While a step lasts a rank keeps what it has gathered and the sum of its own gradients, whole, so that each group is gathered
    and reduced once a step: 4 bytes a weight and 2 or 4 more. If that leaves no half of the memory to activations, both are
    done for each part of the rank's rows instead, and of whole weights there are a group or two at a time.
    offload: weights, gradients and moments are in host memory between uses, and nothing is kept whole.
    """

    def __init__(self, recipe: Recipe, offload: bool = False) -> None:
        self._precision, self._offload = recipe.precision, offload

    def distribute(self, model: Decoder, method: Any) -> Optimizer:
        whole = {name: weight.to("meta") for name, weight in model.state_dict().items()}
        device = model.cos_TE.device
        dtype = matmul_dtype(self._precision, device)
        self._keeps = self._may_keep(model, device, dtype)
        self._casts = any(dtype_of_block(block, dtype) != dtype for block in model.blocks)
        policy = CPUOffloadPolicy(pin_memory=device.type == "cuda") if self._offload else OffloadPolicy()
        roles = roles_of(model)
        vectors = {weight for name, weight in model.named_parameters() if roles[name] == "vector"}
        for block in model.blocks:
            fully_shard(
                block,
                reshard_after_forward=not self._keeps,
                # cos and sin are inputs, and stay what they are
                mp_policy=MixedPrecisionPolicy(dtype_of_block(block, dtype), torch.float32, cast_forward_inputs=False),
                offload_policy=policy,
                ignored_params=vectors,
            )
        self.module = fully_shard(Call(model), offload_policy=policy, ignored_params=vectors)
        for group in (*model.blocks, self.module):
            # whole tensors are made once: by a sampler, in inference mode, they could not be learned with
            group.unshard()
            group.reshard()
        self._sharded: dict[str, Any] = dict(model.named_parameters())
        self._held = {
            name: nn.Parameter(w.to_local(), w.requires_grad) if isinstance(w, DTensor) else w
            for name, w in self._sharded.items()
        }
        named = [(n, w) for n, w in self._held.items() if w.requires_grad]
        optimizer = with_rates(method.build(named, roles), named, rates_of(model))
        refuse(
            method,
            freezes=optimizer.freezes,
            exchanges=optimizer.exchanges,
            squares=optimizer.squares,
            coded=optimizer.is_coded,
        )
        self._names: dict[Tensor, str] = {held: name for name, held in self._held.items()}
        if isinstance(optimizer, MuonOptimizer):
            optimizer.orthogonal = self._orthogonal  # type: ignore[method-assign]
            optimizer.totals = self._totals  # type: ignore[method-assign]
        elif optimizer.whole_tensors:
            optimizer.update = partial(self._update_whole, optimizer.update)  # type: ignore[method-assign]
        self._know(model, optimizer, self._held, whole)
        return optimizer

    def _may_keep(self, model: Decoder, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether a step keeps whole weights and gradients, the same on every rank; takes note of what memory it takes."""
        # of the blocks that are gathered in fp32, and of all else as of the others
        wide = sum(w.numel() for b in model.blocks if dtype_of_block(b, dtype) != dtype for w in b.parameters())
        whole = dtype.itemsize + (4.0 - dtype.itemsize) * wide / model.num_parameters()
        cut, gathered = type(self).bytes_a_weight / world_size(), whole + 4.0
        room = SHARE * self.memory_share(device) * memory_bytes(device)
        trained = model.num_trained()
        frozen = 4.0 / world_size()  # a weight that is not trained has no gradient
        taken = (cut + gathered) * trained + (frozen + whole) * (model.num_parameters() - trained)
        fits = not self._offload and taken <= room / 2
        keeps = bool(self.all_reduce_min(fits))
        self.bytes_a_weight = 0.0 if self._offload else cut + gathered * keeps
        self.bytes_a_frozen_weight = 0.0 if self._offload else frozen + whole * keeps
        self.between_parts = "keeps whole weights" if keeps else "cuts weights"
        return keeps

    def call(self, call: Callable[[], Result]) -> Result:
        return self.module(call)

    def backward(self, batch: Batch, positions: int) -> tuple[Tensor, Metrics]:
        found = super().backward(batch, positions)
        # the loss was that of the mean over ranks
        mean_([w.grad for w in self._sharded.values() if w.grad is not None and not isinstance(w, DTensor)])
        return found

    def share(self, batch: Batch, rows: slice, last: bool) -> tuple[Tensor, Metrics]:
        if self._casts:
            # a copy kept from the part before has its place in the graph before this part's: its gradient would come when the
            # block's have been taken
            torch.clear_autocast_cache()
        share, metrics = self.module(batch.loss, rows)
        done = last or not self._keeps
        self.module.set_requires_gradient_sync(done)
        self.module.set_reshard_after_backward(done)
        self.module.set_is_last_backward(done)
        (share * world_size()).backward()
        return share.detach(), metrics

    def moved(self) -> None:
        for group in (*self.model.blocks, self.module):  # what was gathered is of the weights before
            group.reshard()

    def clip(self, limit: float) -> Tensor:
        cut: list[Tensor] = []
        same: list[Tensor] = []
        for name, weight in self._sharded.items():
            if isinstance(weight.grad, DTensor):
                cut.append(weight.grad.to_local())
                self._held[name].grad = cut[-1]
            elif weight.grad is not None:
                same.append(weight.grad)
        squares = [_square(grads).to(self.model.cos_TE.device) for grads in (cut, same)]
        dist.all_reduce(squares[0])
        norm = torch.stack(squares).sum().sqrt()
        for grads in (cut, same):
            if grads:
                torch._foreach_mul_(grads, (limit / (norm + 1e-6)).clamp(max=1.0).to(grads[0].device))
        return norm

    def zero_grad(self) -> None:
        for weight in [*self._sharded.values(), *self._held.values()]:
            weight.grad = None

    def local_parameters(self) -> dict[str, Tensor]:
        return dict(self._held)

    def gather(self, name: str, held: Tensor) -> Tensor:
        like = self._sharded[name]
        if not isinstance(like, DTensor):
            return held.detach()
        local = held.detach().to(like.device_mesh.device_type)
        whole = torch.empty(
            like.shape[0], *held.shape[1:], device="meta"
        )  # less of a row than the weight has, of some slots
        sharded = DTensor.from_local(local, like.device_mesh, [Shard(0)], shape=whole.shape, stride=whole.stride())
        return sharded.full_tensor()

    def shard(self, name: str, whole: Tensor) -> Tensor:
        like = self._sharded[name]
        if not isinstance(like, DTensor):
            return whole
        return distribute_tensor(whole, like.device_mesh, [Shard(0)], src_data_rank=None).to_local()

    def weights(self) -> dict[str, Tensor]:
        return {name: self.gather(name, held) for name, held in self._held.items()}

    @torch.no_grad()
    def load_model_state(self, weights: dict[str, Tensor]) -> None:
        for name, weight in weights.items():
            self._held[name].copy_(self.shard(name, weight))

    def finish(self) -> None:
        make_plain(self.model, self.weights())
        super().finish()

    def _orthogonal(
        self, weights: list[Tensor], updates: list[Tensor], iteration: Iteration
    ) -> tuple[list[Tensor], list[int]]:
        """This rank's parts of the orthogonalised matrices whose parts the updates are, and the longer sides of those."""
        names = [self._names[weight] for weight in weights]
        whole = [self.gather(name, update) for name, update in zip(names, updates, strict=True)]
        found, sides = orthogonalised(whole, iteration)
        parts = [self.shard(name, matrix.contiguous()) for name, matrix in zip(names, found, strict=True)]
        return [part.to(update.device) for part, update in zip(parts, updates, strict=True)], sides

    def _totals(self, weights: list[Tensor], sums: list[Tensor]) -> list[Tensor]:
        """Sums over whole weights, of which these are the sums over this rank's parts, in fp32; vectors are whole already."""
        cut = [isinstance(self._sharded[self._names[weight]], DTensor) for weight in weights]
        found = torch.stack([one.float() for one in sums]).to(self.model.cos_TE.device)
        whole = found.clone()
        dist.all_reduce(whole)
        return [(whole if of_parts else found)[i].to(sums[i].device) for i, of_parts in enumerate(cut)]

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
        whole = {
            key: [self.gather(n, t) for n, t in zip(names, tensors, strict=True)] for key, tensors in lists.items()
        }
        whole_grads = [self.gather(n, grad) for n, grad in zip(names, grads, strict=True)]
        update(whole["weight"], whole_grads, {**state, **{k: v for k, v in whole.items() if k != "weight"}}, group)
        for key, tensors in lists.items():
            for name, held, new in zip(names, tensors, whole[key], strict=True):
                held.copy_(self.shard(name, new))
