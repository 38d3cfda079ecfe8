"""LAMB: Adam's update, rescaled in each tensor to the tensor's own norm (You et al. 2020, arXiv:1904.00962, algorithm 2)."""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.config import Config
from lm.linears.base import Roles
from lm.optimizers.base import Named, Optimizer, State, adam_directions_, decayed_and_plain


class LambOptimizer(Optimizer):
    """Holds exp_avg, exp_avg_sq and step."""

    whole_tensors = True

    def update(self, weights: list[Tensor], grads: list[Tensor], state: State, group: dict[str, Any]) -> None:
        by = {key: group[key] for key in ("beta1", "beta2", "eps")}
        steps = [int(step) for step in state["step"]]
        updates = adam_directions_(grads, state["exp_avg"], state["exp_avg_sq"], steps, **by)
        torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
        ratios = [
            trust(weight_norm, update_norm, group["max_norm"])
            for weight_norm, update_norm in zip(torch._foreach_norm(weights), torch._foreach_norm(updates), strict=True)
        ]
        torch._foreach_mul_(updates, ratios)
        torch._foreach_add_(weights, updates, alpha=-group["lr"])


def trust(weight_norm: Tensor, update_norm: Tensor, max_norm: float) -> Tensor:
    """phi(|w|) / |u| with phi(x) = min(x, max_norm); 1 where either is zero, so that a tensor of zeros can begin."""
    ratio = weight_norm.clamp(max=max_norm) / update_norm
    return torch.where((weight_norm > 0) & (update_norm > 0), ratio, torch.ones_like(ratio))


class Lamb(Config):
    name: Literal["lamb"] = "lamb"
    lr: float = Field(3e-2, gt=0, description="share of a tensor's norm that one update moves it by")
    beta1: float = Field(0.9, ge=0, lt=1, description="memory of the gradient's mean")
    beta2: float = Field(0.99, ge=0, lt=1, description="memory of the gradient's square")
    eps: float = Field(1e-6, gt=0)
    weight_decay: float = Field(0.01, ge=0, description="inside the update, before its norm is taken; matrices only")
    max_norm: float = Field(10.0, gt=0, description="a larger weight norm counts as this")

    def build(self, named_parameters: Named, roles: Roles) -> LambOptimizer:
        """The optimizer of these weights: a group with decay and one without."""
        slots = ("step", "exp_avg", "exp_avg_sq")
        settings = {"base_lr": self.lr, "slots": slots, **self.model_dump(exclude={"name"})}
        return LambOptimizer(decayed_and_plain(named_parameters, roles), settings)
