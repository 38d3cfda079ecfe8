"""AdaMod: Adam whose rate of each entry is held below the running mean of its rates: Ding et al. 2019 (arXiv:1910.12249).

Algorithm 1. Differs from the paper: weight decay is decoupled, as in the authors' code, and the memory of rates is of 100
updates, not 1,000, because the first ones move by no more than the share of the memory that has filled.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.config import Config
from lm.linears.base import Roles
from lm.optimizers.base import Named, Optimizer, State, decayed_and_plain, take_in_


class AdaModOptimizer(Optimizer):
    """Holds exp_avg, exp_avg_sq, step and exp_avg_rate."""

    def update(self, weights: list[Tensor], grads: list[Tensor], state: State, group: dict[str, Any]) -> None:
        """Move each entry by min(e, s) m / (1 - beta1^t), with its rate e = lr / (sqrt(v / (1 - beta2^t)) + eps) and the
        running mean s = beta3 s + (1 - beta3) e of its rates, which is not corrected for having begun at 0."""
        beta1, beta2, steps = group["beta1"], group["beta2"], [int(step) for step in state["step"]]
        take_in_(grads, state["exp_avg"], state["exp_avg_sq"], beta1, beta2)
        roots = torch._foreach_sqrt(torch._foreach_div(state["exp_avg_sq"], [1 - beta2**step for step in steps]))
        torch._foreach_add_(roots, group["eps"])
        rates = torch._foreach_mul(torch._foreach_reciprocal(roots), group["lr"])
        torch._foreach_lerp_(state["exp_avg_rate"], rates, 1 - group["beta3"])
        torch._foreach_minimum_(rates, state["exp_avg_rate"])
        torch._foreach_div_(rates, [1 - beta1**step for step in steps])
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_addcmul_(weights, rates, state["exp_avg"], value=-1)


class AdaMod(Config):
    name: Literal["adamod"] = "adamod"
    lr: float = Field(
        5e-3, gt=0, description="weight per update, at factor 1 of the schedule, once the memory has filled"
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="memory of the gradient's mean")
    beta2: float = Field(0.95, ge=0, lt=1, description="memory of the gradient's square; the paper's is 0.999")
    beta3: float = Field(0.99, ge=0, lt=1, description="memory of the rates; 0.999 in the paper, 0: Adam")
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0, description="times lr, per update; matrices only")

    def build(self, named_parameters: Named, roles: Roles) -> AdaModOptimizer:
        """The optimizer of these weights: a group with decay and one without."""
        slots = ("step", "exp_avg", "exp_avg_sq", "exp_avg_rate")
        settings = {"base_lr": self.lr, "slots": slots, **self.model_dump(exclude={"name"})}
        return AdaModOptimizer(decayed_and_plain(named_parameters, roles), settings)
