"""AdamW: Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kernels.adamw import adamw_
from lm.config import Config


class AdamWOptimizer(torch.optim.Optimizer):
    """Holds exp_avg, exp_avg_sq and step of every weight that has had a gradient; kernels/adamw is the update."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            states = [self._state_of(weight) for weight in weights]
            adamw_(
                weights,
                [weight.grad for weight in weights],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [int(state["step"].add_(1)) for state in states],
                lr=group["lr"],
                beta1=group["beta1"],
                beta2=group["beta2"],
                eps=group["eps"],
                weight_decay=group["weight_decay"],
            )

    def _state_of(self, weight: Tensor) -> dict[str, Tensor]:
        state = self.state[weight]
        if not state:
            state["step"] = torch.tensor(0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
        return state


class AdamW(Config):
    name: Literal["adamw"] = "adamw"
    lr: float = Field(
        3e-3, gt=0, description="weight per update, at factor 1 of the schedule; for models of a few million weights"
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="memory of the gradient's mean")
    beta2: float = Field(
        0.95, ge=0, lt=1, description="memory of the gradient's square; 0.95 as in GPT-3, arXiv:2005.14165"
    )
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0, description="times lr, per update; matrices only, never norms or biases")

    def build(self, named_parameters: list[tuple[str, nn.Parameter]]) -> AdamWOptimizer:
        """The optimizer of these weights: a group with decay and one without, each where it has members."""
        decayed = [weight for _, weight in named_parameters if weight.ndim >= 2]
        plain = [weight for _, weight in named_parameters if weight.ndim < 2]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        defaults = {"base_lr": self.lr, **self.model_dump(exclude={"name"})}
        return AdamWOptimizer([group for group in groups if group["params"]], defaults)
