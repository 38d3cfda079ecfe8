"""RAdam: Adam whose step is rectified for the variance of a young second moment, instead of a warm-up.

Liu et al. 2020 (arXiv:1908.03265, algorithm 2). Differs from the paper: the variance counts as undefined up to
rho_t = 5, as in torch, where the paper says 4, so that between the two a step is momentum alone; weight decay is decoupled, as
in AdamW.
"""

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from kernels.adamw import adamw_
from lm.config import Config
from lm.linears.base import Roles
from lm.optimizers.base import Named, Optimizer, State, decayed_and_plain, take_in_


def rectification(step: int, beta2: float) -> float | None:
    """r_t, the factor on Adam's update number `step` (from 1); None while the variance is undefined (rho_t <= 5)."""
    longest = 2 / (1 - beta2) - 1
    rho = longest - 2 * step * beta2**step / (1 - beta2**step)
    if rho <= 5:
        return None
    return math.sqrt((rho - 4) * (rho - 2) * longest / ((longest - 4) * (longest - 2) * rho))


class RAdamOptimizer(Optimizer):
    """Holds exp_avg, exp_avg_sq and step."""

    def update(self, weights: list[Tensor], grads: list[Tensor], state: State, group: dict[str, Any]) -> None:
        steps = [int(step) for step in state["step"]]
        for step in sorted(set(steps)):  # all are one in a run; a weight without a gradient may lag
            mine = [i for i, s in enumerate(steps) if s == step]
            means, squares = ([state[slot][i] for i in mine] for slot in ("exp_avg", "exp_avg_sq"))
            self._update([weights[i] for i in mine], [grads[i] for i in mine], means, squares, step, group)

    def _update(
        self,
        weights: list[Tensor],
        grads: list[Tensor],
        means: list[Tensor],
        squares: list[Tensor],
        step: int,
        group: dict[str, Any],
    ) -> None:
        lr, beta1, beta2 = group["lr"], group["beta1"], group["beta2"]
        torch._foreach_mul_(weights, 1 - lr * group["weight_decay"])
        factor = rectification(step, beta2)
        if factor is None:  # momentum alone
            take_in_(grads, means, squares, beta1, beta2)
            torch._foreach_add_(weights, means, alpha=-lr / (1 - beta1**step))
            return
        settings = {"beta1": beta1, "beta2": beta2, "eps": group["eps"], "weight_decay": 0.0}
        adamw_(weights, grads, means, squares, [step] * len(weights), lr=lr * factor, **settings)


class RAdam(Config):
    name: Literal["radam"] = "radam"
    lr: float = Field(3e-3, gt=0, description="weight per update, at factor 1 of the schedule")
    beta1: float = Field(0.9, ge=0, lt=1, description="memory of the gradient's mean")
    beta2: float = Field(
        0.95,
        gt=2 / 3,
        lt=1,
        description="memory of the gradient's square, above 2/3, where rho_t passes 5; the paper's is 0.999",
    )
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0, description="times lr, per update; matrices only")

    def build(self, named_parameters: Named, roles: Roles) -> RAdamOptimizer:
        """The optimizer of these weights: a group with decay and one without."""
        slots = ("step", "exp_avg", "exp_avg_sq")
        settings = {"base_lr": self.lr, "slots": slots, **self.model_dump(exclude={"name"})}
        return RAdamOptimizer(decayed_and_plain(named_parameters, roles), settings)
