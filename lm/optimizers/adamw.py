"""AdamW: Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

from functools import partial
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from lm.linears.base import Roles
from lm.optimizers.base import Named, Optimizer, State, decayed_and_plain
from lm.optimizers.by_role import ByRole
from lm.optimizers.cautious import Cautious, adam_step_


class AdamWOptimizer(Optimizer):
    """Holds exp_avg, exp_avg_sq and step; kernels/adamw is the update of one that is not cautious."""

    def __init__(self, groups: list[dict[str, Any]], settings: dict[str, Any]) -> None:
        super().__init__(groups, settings)
        self.whole_tensors = settings["cautious"]  # the share of entries that agree

    def update(self, weights: list[Tensor], grads: list[Tensor], state: State, group: dict[str, Any]) -> None:
        by = {key: group[key] for key in ("beta1", "beta2", "eps")}
        adam_step_(weights, grads, state, group, partial(self.totals, weights), **by)


class AdamW(Cautious, ByRole):
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

    def build(self, named_parameters: Named, roles: Roles) -> AdamWOptimizer:
        """The optimizer of these weights: a group with decay and one without, and those of roles with settings of their own."""
        groups = self.split(decayed_and_plain(named_parameters, roles), named_parameters, roles)
        settings = {"base_lr": self.lr, "slots": ("step", "exp_avg", "exp_avg_sq"), **self.settings()}
        return AdamWOptimizer(groups, settings)
