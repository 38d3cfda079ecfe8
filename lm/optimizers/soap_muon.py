"""SOAP-Muon: Muon of a momentum that has been divided as SOAP divides, in Shampoo's eigenbasis, before it is orthogonalised.

No paper has it. Its source are public records of modded-nanogpt's track 3: pull request 278 (Acquaviva, May 2026) divides the
momentum of feed-forward matrices, 321 (June 2026, record 44) that of every hidden matrix, with a basis renewed in each step.
Basis and renewal are SOAP's: Vyas et al. 2024 (arXiv:2409.11321) and its authors' code. Differs from record 44: nothing of
what else is in that stack (a floor under update over weight, radial dampening, weights held at a radius, a gate of attention's
output, EMA-Nesterov), and step size and weight decay are those of Muon here. The records scale the divided momentum to the
norm it had, which orthogonalising it forgets.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from lm.linears.base import Roles
from lm.optimizers.base import Named, State
from lm.optimizers.eigenbasis import eigenvectors, rotated
from lm.optimizers.orthogonal import Iteration, MuonOptimizer, OrthogonalConfig


def divided_(
    update_OI: Tensor, square_OI: Tensor, left_OO: Tensor, right_II: Tensor, beta2: float, eps: float
) -> Tensor:
    """The update, in the basis, over the root of the running mean of its square, and turned back. `square` has taken it in, in
    place; it is not corrected for having begun at 0, which is one factor for all of a matrix."""
    turned_OI = rotated(update_OI, left_OO, right_II)
    square_OI.lerp_(turned_OI.square(), 1 - beta2)
    return left_OO @ (turned_OI / (square_OI.sqrt() + eps)) @ right_II.T


def renewed(matrix: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """(the basis after a step of power iteration, where its vectors were), the one with the largest quotient v^T M v first."""
    order = (basis * (matrix @ basis)).sum(0).argsort(descending=True, stable=True)
    return eigenvectors(matrix, basis[:, order]), order


class SoapMuonOptimizer(MuonOptimizer):
    """Holds of every hidden matrix its momentum, in which gradients are as they come, exp_avg_sq, in the basis, step, the
    running means of G G^T (left) and G^T G (right) and a basis of each; and Adam's state of every other weight."""

    squares = True

    def direction(
        self, weights: list[Tensor], state: State, group: dict[str, Any]
    ) -> Callable[[list[Tensor], Iteration], tuple[list[Tensor], list[int]]]:
        return partial(self._divided, weights, state, group)

    def _divided(
        self, weights: list[Tensor], state: State, group: dict[str, Any], updates: list[Tensor], iteration: Iteration
    ) -> tuple[list[Tensor], list[int]]:
        """There is no basis yet in the first update, which is Muon's."""
        found = [
            divided_(update, square, left, right, group["beta2"], group["eps"]) if step > 1 else update
            for update, square, left, right, step in zip(
                updates, *(state[slot] for slot in ("exp_avg_sq", "left_basis", "right_basis", "step")), strict=True
            )
        ]
        return self.orthogonal(weights, found, iteration)

    def update(self, weights: list[Tensor], grads: list[Tensor], state: State, group: dict[str, Any]) -> None:
        super().update(weights, grads, state, group)
        if group["orthogonal"]:
            for index, grad in enumerate(grads):
                self._turn(grad, {slot: values[index] for slot, values in state.items()}, group)

    def _turn(self, grad: Tensor, own: dict[str, Tensor], group: dict[str, Any]) -> None:
        """Take the gradient into both means, and bring the bases up to date, where it is due. Squares go with their vectors."""
        own["left"].lerp_(grad @ grad.T, 1 - group["beta2"])
        own["right"].lerp_(grad.T @ grad, 1 - group["beta2"])
        step = int(own["step"])
        for dim, side in enumerate(("left", "right")):
            mean, basis = own[side], own[f"{side}_basis"]
            if step == 1:
                basis.copy_(eigenvectors(mean, None))
            elif step % group["every"] == 0:
                vectors, order = renewed(mean, basis)
                basis.copy_(vectors)
                own["exp_avg_sq"].copy_(own["exp_avg_sq"].index_select(dim, order))


class SoapMuon(OrthogonalConfig):
    name: Literal["soap_muon"] = "soap_muon"
    beta2: float = Field(0.9, ge=0, lt=1, description="memory of squares in the basis, and of both preconditioners")
    eps: float = Field(1e-8, gt=0, description="beside the root of a square, in the basis")
    every: int = Field(
        1, gt=0, description="updates from one basis to the next; 1 is record 44's, 10 that of the first"
    )

    def build(self, named_parameters: Named, roles: Roles) -> SoapMuonOptimizer:
        """The optimizer of these weights."""
        slots = ("step", "momentum", "exp_avg_sq", "left", "left_basis", "right", "right_basis")
        return SoapMuonOptimizer(self.groups(named_parameters, roles, slots), self.settings())
