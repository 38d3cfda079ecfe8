"""Schedule-Free AdamW: an average of the iterates instead of a decay (Defazio et al. 2024, arXiv:2405.15682, algorithm 1).

Gradients are taken at y = (1 - beta1) z + beta1 x, where z takes Adam's steps without momentum and x, the model, is the
average of all z, weighted by the squares of their rates. While it trains the weights are y. Choose a schedule that warms
up and stays, such as `wsd` with decay_fraction 0.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.config import Config
from lm.linears.base import Roles
from lm.optimizers.base import Named, Optimizer, State, decayed_and_plain


class ScheduleFreeOptimizer(Optimizer):
    """Holds ahead (z - y, so that it can begin as zeros), exp_avg_sq, step, and rate_sum (of squared rates)."""

    def update(self, weights: list[Tensor], grads: list[Tensor], state: State, group: dict[str, Any]) -> None:
        """Step the weights y: with Adam's direction u and the share c of z in x, y += c (z - y) - (1 - beta1 (1 - c)) lr u, and
        z - y becomes (1 - c) (z - y - beta1 lr u)."""
        lr, beta1, beta2, squares = group["lr"], group["beta1"], group["beta2"], state["exp_avg_sq"]
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, value=1 - beta2)
        roots = torch._foreach_sqrt(torch._foreach_div(squares, [1 - beta2 ** int(step) for step in state["step"]]))
        torch._foreach_add_(roots, group["eps"])
        directions = torch._foreach_div(grads, roots)
        torch._foreach_add_(directions, weights, alpha=group["weight_decay"])
        shares = []
        for rate_sum in state["rate_sum"]:
            rate_sum.add_(lr**2)
            shares.append(lr**2 / float(rate_sum) if lr else 0.0)
        torch._foreach_add_(weights, torch._foreach_mul(state["ahead"], shares))
        moved = torch._foreach_mul(directions, [-lr * (1 - beta1 * (1 - share)) for share in shares])
        torch._foreach_add_(weights, moved)
        torch._foreach_add_(state["ahead"], directions, alpha=-beta1 * lr)
        torch._foreach_mul_(state["ahead"], [1 - share for share in shares])

    @torch.no_grad()
    def finish(self) -> None:
        """Move the weights from y to x = y - (1 - beta1) / beta1 (z - y)."""
        for group in self.param_groups:
            for weight in group["params"]:
                if self.state[weight]:
                    weight.sub_(self.state[weight]["ahead"], alpha=(1 - group["beta1"]) / group["beta1"])


class ScheduleFree(Config):
    name: Literal["schedule_free"] = "schedule_free"
    lr: float = Field(5e-3, gt=0, description="weight per update after the warm-up; larger than AdamW's with a decay")
    beta1: float = Field(0.95, gt=0, lt=1, description="share of the average in where gradients are taken")
    beta2: float = Field(0.95, ge=0, lt=1, description="memory of the gradient's square")
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0, description="times lr, per update, of y; matrices only")

    def build(self, named_parameters: Named, roles: Roles) -> ScheduleFreeOptimizer:
        """The optimizer of these weights: a group with decay and one without."""
        slots = ("step", "ahead", "exp_avg_sq", "rate_sum")
        settings = {"base_lr": self.lr, "slots": slots, **self.model_dump(exclude={"name"})}
        return ScheduleFreeOptimizer(decayed_and_plain(named_parameters, roles), settings)
