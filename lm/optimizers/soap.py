"""SOAP: Adam in the eigenbasis of Shampoo's two preconditioners: Vyas et al. 2024 (arXiv:2409.11321, algorithms 3 and 4).

Hidden matrices only; embeddings, the output head, norms and biases are updated by AdamW. Differs from the paper: it gives
tables a basis of their smaller side; and the first update, before there is a basis, is Adam's, where the authors' code makes
none.
"""

from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from kernels.adamw import adamw_
from lm.config import Config
from lm.linears.base import Roles
from lm.optimizers.base import Named, Optimizer, State, adam_directions_, decayed_and_plain
from lm.optimizers.eigenbasis import eigenvectors, rotated


class SoapOptimizer(Optimizer):
    """Holds exp_avg, in which gradients are as they come, exp_avg_sq, in the basis, step, and of every hidden matrix the
    running means of G G^T (left) and G^T G (right) and a basis of each."""

    whole_tensors = squares = True

    def update(self, weights: list[Tensor], grads: list[Tensor], state: State, group: dict[str, Any]) -> None:
        by = {key: group[key] for key in ("beta1", "beta2", "eps")}
        steps = [int(step) for step in state["step"]]
        if not group["rotates"]:
            decay = {"lr": group["lr"], "weight_decay": group["weight_decay"]}
            adamw_(weights, grads, state["exp_avg"], state["exp_avg_sq"], steps, **by, **decay)
            return
        for index, (weight, grad, step) in enumerate(zip(weights, grads, steps, strict=True)):
            own = {slot: values[index] for slot, values in state.items()}
            direction = self._direction(grad, own, step, by)
            weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=group["lr"])
            self._turn(grad, own, step, group["beta2"], step % group["every"] == 0)

    def _direction(self, grad: Tensor, own: dict[str, Tensor], step: int, by: dict[str, float]) -> Tensor:
        """Adam's, made in the basis and turned back."""
        mean, square = own["exp_avg"], own["exp_avg_sq"]
        if step == 1:
            (first,) = adam_directions_([grad], [mean], [square], [1], **by)
            return first
        left, right = own["left_basis"], own["right_basis"]
        mean.lerp_(grad, 1 - by["beta1"])
        square.lerp_(rotated(grad, left, right).square(), 1 - by["beta2"])
        root = (square / (1 - by["beta2"] ** (step - 1))).sqrt_().add_(by["eps"])
        return left @ (rotated(mean, left, right) / root / (1 - by["beta1"] ** step)) @ right.T

    def _turn(self, grad: Tensor, own: dict[str, Tensor], step: int, beta2: float, due: bool) -> None:
        """Take the gradient into both means, and bring the bases up to date, where it is time. Squares of the first update are
        none in the first basis, and are dropped."""
        own["left"].lerp_(grad @ grad.T, 1 - beta2)
        own["right"].lerp_(grad.T @ grad, 1 - beta2)
        if step == 1:
            own["exp_avg_sq"].zero_()
        if step == 1 or due:
            for side in ("left", "right"):
                basis = own[f"{side}_basis"]
                basis.copy_(eigenvectors(own[side], None if step == 1 else basis))


class Soap(Config):
    name: Literal["soap"] = "soap"
    lr: float = Field(
        3e-3, gt=0, description="weight per update, at factor 1 of the schedule; the paper's of most runs"
    )
    beta1: float = Field(0.95, ge=0, lt=1, description="memory of the gradient's mean")
    beta2: float = Field(0.95, ge=0, lt=1, description="memory of its square in the basis, and of both preconditioners")
    eps: float = Field(1e-8, gt=0)
    every: int = Field(10, gt=0, description="updates from one basis to the next")
    weight_decay: float = Field(0.1, ge=0, description="times lr, per update; never norms or biases")

    def build(self, named_parameters: Named, roles: Roles) -> SoapOptimizer:
        """The optimizer of these weights: a group of matrices, and AdamW's of tables and of vectors, without decay."""
        hidden = [weight for name, weight in named_parameters if roles[name] == "matrix"]
        others = [(name, weight) for name, weight in named_parameters if roles[name] != "matrix"]
        slots = ("step", "exp_avg", "exp_avg_sq")
        sides = ("left", "left_basis", "right", "right_basis")
        groups = [{"params": hidden, "rotates": True, "slots": slots + sides}] if hidden else []
        groups += [{**group, "rotates": False, "slots": slots} for group in decayed_and_plain(others, roles)]
        return SoapOptimizer(groups, {"base_lr": self.lr, **self.model_dump(exclude={"name"})})
