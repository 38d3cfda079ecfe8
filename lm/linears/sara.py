"""SaRA: of each matrix the weights of smallest magnitude are trained, and all others stay.

Hu et al. 2025, arXiv:2409.06633. Weights that small have done nothing so far, so that what they learn forgets little. A share
of a step's loss is the nuclear norm of what is trained, which keeps it of low rank. After some steps those that are not small
any more stay as they are, too.

Differs from the paper: a share of each matrix is picked, where it takes those below one threshold for all (2e-3 in its models);
matrices take turns in the nuclear norm, one a step, where its code draws one; moments go on where weights are picked anew,
where its code begins with new ones; and nothing decays.

Letters: O outputs, I inputs, K weights picked.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lm.config import ConfigError
from lm.linears.base import LinearMethod, ReparametrizedLinear


def smallest(weight_OI: Tensor, share: float) -> Tensor:
    """places_K of the weights of smallest magnitude, at least one, in the order of the flat matrix."""
    count = max(1, int(share * weight_OI.numel()))
    # stable, so that of equal ones the first are picked on any device
    return weight_OI.detach().abs().flatten().argsort(stable=True)[:count].sort().values


def placed(weight_OI: Tensor, places_K: Tensor, values_K: Tensor) -> Tensor:
    """The matrix with these values at these places."""
    return weight_OI.flatten().index_copy(0, places_K, values_K).view_as(weight_OI)


def nuclear_norm(shape: tuple[int, int], places_K: Tensor, values_K: Tensor) -> Tensor:
    """||P_M||_*: the sum of the singular values of the matrix of these values and of zeros."""
    return torch.linalg.svdvals(placed(values_K.new_zeros(shape), places_K, values_K)).sum()


class _Product(torch.autograd.Function):
    """x W^T of a matrix with values in their places. Neither that matrix nor a gradient of its size is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, places_K: Tensor, values_K: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight_OI, places_K, values_K)
        return F.linear(x, placed(weight_OI, places_K, values_K))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, None, None, Tensor]:
        x, weight_OI, places_K, values_K = ctx.saved_tensors
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (dy @ placed(weight_OI, places_K, values_K).to(dy.dtype)).to(x.dtype)
        rows, columns = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1]).to(dy.dtype)
        dweight_OI = rows.T @ columns
        return dx, None, None, dweight_OI.flatten()[places_K].to(values_K.dtype)


class SaRALinear(ReparametrizedLinear):
    """x W^T + bias, W being the matrix that stays with what was learned at the places picked."""

    roles = {"weight": "matrix", "bias": "vector", "values": "vector"}  # noqa: RUF012
    places_K: Tensor
    settled_K: Tensor

    def __init__(self, linear: nn.Linear, share: float, penalty: float, repick: int) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.weight, self.bias = linear.weight, linear.bias
        self._weight_of_norm, self._repick, self._turn = penalty, repick, False
        places_K = smallest(self.weight, share)
        self.register_buffer("places_K", places_K, persistent=False)
        self.values = nn.Parameter(self.weight.detach().flatten()[places_K])
        self.threshold = self.values.detach().abs().max()
        # what weights stay at that were trained at first; of those that are trained it is not a number
        self.register_buffer("settled_K", torch.full_like(self.values.detach(), torch.nan), persistent=False)

    def now(self) -> Tensor:
        """values_K of all weights picked, of which some are no longer trained."""
        return torch.where(self.settled_K.isnan(), self.values, self.settled_K)

    def forward(self, x: Tensor) -> Tensor:
        made = _Product.apply(x, self.weight, self.places_K, self.now())
        return made if self.bias is None else made + self.bias.to(made.dtype)

    def flops(self) -> float:
        """FLOP of a dense product, since the gradient of a whole matrix is made, of which the places are taken."""
        return 6.0 * self.weight.numel()

    def dense(self) -> Tensor:
        return placed(self.weight, self.places_K, self.now())

    @torch.no_grad()
    def begin(self, step: int, turn: bool) -> None:
        if self.values.numel() != self.places_K.numel():
            raise ConfigError("linear: zero3 cuts what sara picks from: set TOKENMILL_PARALLEL to fsdp or zero2")
        self._turn = turn
        if step == self._repick and step:
            settles = self.values.abs() > self.threshold
            self.settled_K.copy_(torch.where(settles, self.values, torch.nan))

    def penalty(self) -> Tensor | None:
        if not (self._turn and self._weight_of_norm):
            return None
        trained_K = torch.where(self.settled_K.isnan(), self.values, 0.0)
        return self._weight_of_norm * nuclear_norm((self.out_features, self.in_features), self.places_K, trained_K)

    def state(self) -> dict[str, Tensor]:
        return {"settled": self.settled_K} if self._repick else {}

    def load(self, state: dict[str, Tensor]) -> None:
        if self._repick:
            self.settled_K.copy_(state["settled"])


class SaRA(LinearMethod):
    name: Literal["sara"] = "sara"
    share: float = Field(
        0.1, gt=0, le=1, description="of each matrix's weights, those of smallest magnitude, are trained"
    )
    penalty: float = Field(0.0005, ge=0, description="of the nuclear norm of what is trained, in the loss")
    repick: int = Field(
        100, ge=0, description="step from which only those that are still below the first threshold are trained; the paper: "
        "half of the run; 0: never",
    )  # fmt: skip

    def frozen_parameters(self, names: list[str]) -> set[str]:
        return set(names)

    def build(self, name: str, linear: nn.Linear) -> nn.Linear:
        return SaRALinear(linear, self.share, self.penalty, self.repick)
