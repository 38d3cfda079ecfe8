"""SLTrain: low rank plus sparse, both trained from scratch: W = alpha / R * B A + V at random places that stay.

Han et al. 2024, arXiv:2406.02214, section 3 and algorithm 1: a share of the places, drawn once and evenly, has numbers of its
own, so that W can be of full rank, with far fewer numbers, gradients and moments than O x I. W is made for each product and
again in its backward, where its gradient is made, of which the factors and the places take theirs; neither is kept.

Differs from the paper: V begins as what the drawn matrix has at those places, which for one that was just drawn has the model's
own spread, where the paper draws it uniform within 1 / sqrt(I); a trained matrix is lost but for these numbers, so that the
method is one for pretraining; V never decays; all matrices of the blocks are held so unless `matrices` says which.

Letters: O outputs, I inputs, R rank, K places.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lm.linears.adapter import generator_of
from lm.linears.base import ReparametrizedLinear, SelectiveLinearMethod


def summed(up_OR: Tensor, down_RI: Tensor, values_K: Tensor, places_K: Tensor, scale: float) -> Tensor:
    """weight_OI = scale * up down, and the values added at their places in the flat matrix."""
    product_OI = scale * (up_OR @ down_RI)
    return product_OI.flatten().index_add(0, places_K, values_K.to(product_OI.dtype)).view_as(product_OI)


class _Product(torch.autograd.Function):
    """x W^T of a matrix that is made where it is needed (algorithm 1)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, up_OR: Tensor, down_RI: Tensor, values_K: Tensor, places_K: Tensor, scale: float
    ) -> Tensor:
        ctx.save_for_backward(x, up_OR, down_RI, values_K, places_K)
        ctx.scale = scale
        return F.linear(x, summed(up_OR, down_RI, values_K, places_K, scale))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, up_OR, down_RI, values_K, places_K = ctx.saved_tensors
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (dy @ summed(up_OR, down_RI, values_K, places_K, ctx.scale).to(dy.dtype)).to(x.dtype)
        rows, columns = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1]).to(dy.dtype)
        dweight_OI = (rows.T @ columns).to(up_OR.dtype)
        dup, ddown = ctx.scale * dweight_OI @ down_RI.T, ctx.scale * up_OR.T @ dweight_OI
        return dx, dup, ddown, dweight_OI.flatten()[places_K].to(values_K.dtype), None, None


class SLTrainLinear(ReparametrizedLinear):
    """x (scale * up down + values)^T + bias; there is no other matrix."""

    roles = {"bias": "vector", "down": "matrix", "up": "matrix", "values": "vector"}  # noqa: RUF012
    places_K: Tensor

    def __init__(self, linear: nn.Linear, method: "SLTrain", generator: torch.Generator) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        weight_OI = linear.weight.detach()
        del self.weight
        self.bias, self.scale = linear.bias, method.alpha / method.rank
        bound = 1 / math.sqrt(self.in_features)  # as torch draws a Linear layer: Kaiming's, of a = sqrt(5)
        down_RI = torch.empty(method.rank, self.in_features).uniform_(-bound, bound, generator=generator)
        count = max(1, round(method.density * weight_OI.numel()))
        places_K = torch.randperm(weight_OI.numel(), generator=generator)[:count].sort().values.to(weight_OI.device)
        self.register_buffer("places_K", places_K, persistent=False)
        self.down = nn.Parameter(down_RI.to(weight_OI.device))
        self.up = nn.Parameter(torch.zeros(self.out_features, method.rank, device=weight_OI.device))
        self.values = nn.Parameter(weight_OI.flatten()[places_K])

    def forward(self, x: Tensor) -> Tensor:
        made = _Product.apply(x, self.up, self.down, self.values, self.places_K, self.scale)
        return made if self.bias is None else made + self.bias.to(made.dtype)

    def flops(self) -> float:
        """FLOP of a dense product, which it is; those of making the matrix do not grow with tokens."""
        return 6.0 * self.in_features * self.out_features

    def dense(self) -> Tensor:
        return summed(self.up, self.down, self.values, self.places_K, self.scale)

    def state(self) -> dict[str, Tensor]:
        return {"places": self.places_K}

    def load(self, state: dict[str, Tensor]) -> None:
        self.places_K.copy_(state["places"])


class SLTrain(SelectiveLinearMethod):
    name: Literal["sltrain"] = "sltrain"
    rank: int = Field(8, gt=0, description="of the low-rank part; the paper: a quarter of the width")
    alpha: float = Field(16.0, gt=0, description="the low-rank part counts alpha / rank; the paper: 8 to 32")
    density: float = Field(0.03, gt=0, le=1, description="share of the places that have a number of their own")
    seed: int = Field(0, ge=0, description="of the places and of the first values")

    def build(self, name: str, linear: nn.Linear) -> nn.Linear:
        """A layer of factors and values, or the layer itself where it is not meant."""
        if not self.applies_to(name):
            return linear
        return SLTrainLinear(linear, self, generator_of(self.seed, name))
