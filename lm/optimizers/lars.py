"""LARS: SGD with momentum, each tensor at a rate that goes by its own norm over its gradient's: You et al. 2017.

arXiv:1708.03888, algorithm 1. Differs from the paper: its global rate and its trust coefficient, which only stand multiplied by
each other, are one parameter; the schedule is any; and norms and biases have no weight decay.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.config import Config
from lm.linears.base import Roles
from lm.optimizers.base import Named, Optimizer, State, decayed_and_plain


def local_rate(weight_norm: Tensor, grad_norm: Tensor, weight_decay: float) -> Tensor:
    """|w| / (|g| + weight_decay |w|); 1 where either norm is zero, so that a tensor of zeros can begin."""
    ratio = weight_norm / (grad_norm + weight_decay * weight_norm)
    return torch.where((weight_norm > 0) & (grad_norm > 0), ratio, torch.ones_like(ratio))


class LarsOptimizer(Optimizer):
    """Holds momentum: half of Adam's state."""

    whole_tensors = True

    def update(self, weights: list[Tensor], grads: list[Tensor], state: State, group: dict[str, Any]) -> None:
        """v = momentum v + lr rate (g + weight_decay w), w = w - v: the rate is in the momentum, as the paper has it."""
        decay = group["weight_decay"]
        rates = [
            group["lr"] * local_rate(weight_norm, grad_norm, decay)
            for weight_norm, grad_norm in zip(torch._foreach_norm(weights), torch._foreach_norm(grads), strict=True)
        ]
        updates = torch._foreach_add(grads, weights, alpha=decay)
        torch._foreach_mul_(updates, rates)
        torch._foreach_mul_(state["momentum"], group["momentum"])
        torch._foreach_add_(state["momentum"], updates)
        torch._foreach_sub_(weights, state["momentum"])


class Lars(Config):
    name: Literal["lars"] = "lars"
    lr: float = Field(
        1e-2,
        gt=0,
        description="share of a tensor's norm that a gradient moves it by: the paper's rate times its trust of 0.001",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="of updates, rates included")
    weight_decay: float = Field(5e-4, ge=0, description="inside the update and the ratio of norms; matrices only")

    def build(self, named_parameters: Named, roles: Roles) -> LarsOptimizer:
        """The optimizer of these weights: a group with decay and one without."""
        settings = {"base_lr": self.lr, "slots": ("momentum",), **self.model_dump(exclude={"name"})}
        return LarsOptimizer(decayed_and_plain(named_parameters, roles), settings)
