"""1-bit Adam: once the second moment has settled it is frozen, and ranks exchange the signs of their momentum.

Tang et al. 2021 (arXiv:2102.02888). Each rank brings the gradients of its own batch, not averaged. Differs from the paper:
embeddings, head, norms and biases stay with Adam on averaged gradients, because the rare entries of an embedding have a tiny
second moment, by which the one magnitude of a sign is divided; momentum and second moment are corrected as Adam's are; weight
decay is decoupled. With one rank nothing is compressed.
"""

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from kernels.adamw import adamw_
from lm.config import Config
from lm.distributed import mean_, mean_of_signs, padded, world_size
from lm.linears.base import Roles
from lm.optimizers.base import Named, Optimizer, State, decayed_and_plain


class OneBitAdamOptimizer(Optimizer):
    """Holds exp_avg, exp_avg_sq and step; and what the signs lost, which differs from rank to rank.

    bytes_sent: what this rank has sent so far.
    """

    exchanges = True
    own_slots = ("worker_error", "server_error")
    bytes_sent = 0

    def update(self, weights: list[Tensor], grads: list[Tensor], state: State, group: dict[str, Any]) -> None:
        settings = {key: group[key] for key in ("lr", "beta1", "beta2", "eps", "weight_decay")}
        steps = [int(step) for step in state["step"]]
        if group["compressed"] and steps[0] > group["freeze_after"]:
            self._frozen(weights, grads, state, steps[0], settings, group["freeze_after"])
            return
        self.bytes_sent += mean_(grads)
        adamw_(weights, grads, state["exp_avg"], state["exp_avg_sq"], steps, **settings)

    def _frozen(
        self, weights: list[Tensor], grads: list[Tensor], state: State, step: int, by: dict[str, float], frozen_at: int
    ) -> None:
        momenta = state["exp_avg"]
        torch._foreach_lerp_(momenta, grads, 1 - by["beta1"])
        if world_size() > 1:
            self._exchange(weights[0], momenta)
        roots = torch._foreach_sqrt(state["exp_avg_sq"])
        torch._foreach_div_(roots, math.sqrt(1 - by["beta2"] ** frozen_at))
        torch._foreach_add_(roots, by["eps"])
        torch._foreach_mul_(weights, 1 - by["lr"] * by["weight_decay"])
        torch._foreach_addcdiv_(weights, momenta, roots, value=-by["lr"] / (1 - by["beta1"] ** step))

    def _exchange(self, holder: Tensor, momenta: list[Tensor]) -> None:
        """Momenta become their mean over the ranks. The errors lie with the group's first weight; those of another number
        of ranks do not fit and are dropped."""
        sizes = [momentum.numel() for momentum in momenta]
        whole, errors = padded(sum(sizes)), self.state[holder]
        for slot, size in (("worker_error", whole), ("server_error", whole // world_size())):
            if slot not in errors or errors[slot].numel() != size:
                errors[slot] = momenta[0].new_zeros(size)
        flat = torch.cat([m.flatten() for m in momenta] + [momenta[0].new_zeros(whole - sum(sizes))])
        mean, sent = mean_of_signs(flat, errors["worker_error"], errors["server_error"])
        self.bytes_sent += sent
        parts = mean[: sum(sizes)].split(sizes)
        torch._foreach_copy_(momenta, [part.view_as(m) for part, m in zip(parts, momenta, strict=True)])


class OneBitAdam(Config):
    name: Literal["onebit_adam"] = "onebit_adam"
    lr: float = Field(3e-3, gt=0, description="weight per update, at factor 1 of the schedule")
    beta1: float = Field(0.9, ge=0, lt=1, description="memory of the gradient's mean")
    beta2: float = Field(0.95, ge=0, lt=1, description="memory of the gradient's square, while it learns")
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0, description="times lr, per update; matrices only")
    freeze_after: int = Field(40, gt=0, description="updates with Adam; 15 to 20% of a run in the paper")

    def build(self, named_parameters: Named, roles: Roles) -> OneBitAdamOptimizer:
        """The optimizer of these weights: matrices, tables, and vectors without decay."""
        hidden = [weight for name, weight in named_parameters if roles[name] == "matrix"]
        others = [(name, weight) for name, weight in named_parameters if roles[name] != "matrix"]
        slots = ("step", "exp_avg", "exp_avg_sq")
        groups = [{"params": hidden, "compressed": True}] if hidden else []
        groups += [{**group, "compressed": False} for group in decayed_and_plain(others, roles)]
        return OneBitAdamOptimizer(groups, {"base_lr": self.lr, "slots": slots, **self.model_dump(exclude={"name"})})
