"""AdaBound: Adam whose rate of each entry is clipped to bounds that close in on one rate, that of SGD with momentum.

Luo et al. 2019 (arXiv:1902.09843, algorithm 1). As in the authors' code, Adam's moments are corrected, the rate is not divided
by sqrt(t), and the bounds go by the schedule as the rate does. Differs from the paper: weight decay is decoupled, and goes by
Adam's rate.
"""

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.config import Config
from lm.linears.base import Roles
from lm.optimizers.base import Named, Optimizer, State, decayed_and_plain, take_in_


def bounds(step: int, final_lr: float, gamma: float) -> tuple[float, float]:
    """(lowest, highest) rate in update number `step`, from 1: almost 0 and without limit at first, final_lr in the end."""
    return final_lr * (1 - 1 / (gamma * step + 1)), final_lr * (1 + 1 / (gamma * step))


class AdaBoundOptimizer(Optimizer):
    """Holds exp_avg, exp_avg_sq and step."""

    def update(self, weights: list[Tensor], grads: list[Tensor], state: State, group: dict[str, Any]) -> None:
        lr, beta1, beta2 = group["lr"], group["beta1"], group["beta2"]
        final_lr = group["final_lr"] * lr / group["base_lr"]
        take_in_(grads, state["exp_avg"], state["exp_avg_sq"], beta1, beta2)
        torch._foreach_mul_(weights, 1 - lr * group["weight_decay"])
        for weight, mean, square, counted in zip(
            weights, state["exp_avg"], state["exp_avg_sq"], state["step"], strict=True
        ):
            step = int(counted)
            corrected = lr * math.sqrt(1 - beta2**step) / (1 - beta1**step)
            rate = (corrected / (square.sqrt() + group["eps"])).clamp(*bounds(step, final_lr, group["gamma"]))
            weight.addcmul_(rate, mean, value=-1)


class AdaBound(Config):
    name: Literal["adabound"] = "adabound"
    lr: float = Field(
        3e-3, gt=0, description="Adam's, with which it begins: weight per update, at factor 1 of the schedule"
    )
    final_lr: float = Field(0.1, gt=0, description="SGD's, with which it ends: weight per gradient, at factor 1")
    gamma: float = Field(
        1e-3, gt=0, lt=1, description="how fast: the bounds are half and twice final_lr after 1 / gamma updates"
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="memory of the gradient's mean")
    beta2: float = Field(0.95, ge=0, lt=1, description="memory of the gradient's square; the paper's is 0.999")
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0, description="times lr, per update; matrices only")

    def build(self, named_parameters: Named, roles: Roles) -> AdaBoundOptimizer:
        """The optimizer of these weights: a group with decay and one without."""
        slots = ("step", "exp_avg", "exp_avg_sq")
        settings = {"base_lr": self.lr, "slots": slots, **self.model_dump(exclude={"name"})}
        return AdaBoundOptimizer(decayed_and_plain(named_parameters, roles), settings)
