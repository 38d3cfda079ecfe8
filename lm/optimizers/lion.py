"""Lion: the sign of an interpolated momentum (Chen et al. 2023, arXiv:2302.06675, algorithm 2)."""

from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.linears.base import Roles
from lm.optimizers.base import Named, Optimizer, State, decayed_and_plain
from lm.optimizers.by_role import ByRole
from lm.optimizers.cautious import Cautious, agreeing, coefficient, decay_


class LionOptimizer(Optimizer):
    """Holds momentum: half of Adam's state."""

    def __init__(self, groups: list[dict[str, Any]], settings: dict[str, Any]) -> None:
        super().__init__(groups, settings)
        self.whole_tensors = settings["cautious"]  # the share of entries that agree

    def update(self, weights: list[Tensor], grads: list[Tensor], state: State, group: dict[str, Any]) -> None:
        momenta = state["momentum"]
        directions = list(torch._foreach_lerp(momenta, grads, 1 - group["beta1"]))
        torch._foreach_sign_(directions)
        if group["cautious"]:
            directions = agreeing(directions, grads, partial(self.totals, weights))
        decay_(weights, directions, group["lr"] * coefficient(group), group["cautious_decay"])
        torch._foreach_add_(weights, directions, alpha=-group["lr"])
        torch._foreach_lerp_(momenta, grads, 1 - group["beta2"])


class Lion(Cautious, ByRole):
    name: Literal["lion"] = "lion"
    lr: float = Field(
        1e-3, gt=0, description="what each weight moves by; a third to a tenth of AdamW's, as in section 5"
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="share of the momentum in what is signed")
    beta2: float = Field(0.99, ge=0, lt=1, description="memory of the momentum")
    weight_decay: float = Field(0.5, ge=0, description="times lr, per update; matrices only")

    def build(self, named_parameters: Named, roles: Roles) -> LionOptimizer:
        """The optimizer of these weights: a group with decay and one without, and those of roles with settings of their own."""
        groups = self.split(decayed_and_plain(named_parameters, roles), named_parameters, roles)
        return LionOptimizer(groups, {"base_lr": self.lr, "slots": ("momentum",), **self.settings()})
