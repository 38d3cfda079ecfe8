"""muS, "unit scaling" for FP8: no scale is computed while training. Weights and activations are cast to E4M3, gradients to
E5M2.

Narayan et al. 2025, arXiv:2502.05967, section 2: a weight of unit variance is cast as it is, and the product is multiplied by
a static alpha, the same forward and for the gradients; numbers beyond the largest of float8 become the largest.

Differs from the paper. It draws weights with variance 1 and has alpha = 1 / sqrt(inputs) in their place, puts norms behind
the branches, mixes a branch into the stream by sqrt(tau) and the stream by sqrt(1 - tau), and scales learning rates by width:
models here keep their shapes, starts, norms and rates. Unit variance is had at the cast alone. A weight is divided by a power
of two next to the spread that it began with, which is its alpha, static from then on: codes are those of a weight of unit
variance, and products are what they were. Inputs are cast as they are: behind a norm they have unit variance, but those of
layers that write into the stream (attention's and SwiGLU's) are as small as the model's own start makes them. Gradients of a
mean over a step's tokens are far below E5M2's least: they are multiplied by a static power of two before the cast.

Letters: R rows, I inputs, O outputs.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lm.precisions.base import Formats, RoundedLinear, Rounding, ScaledCodes
from lm.precisions.float8 import E4M3, E5M2, cast


def alpha_of(weight_OI: Tensor) -> Tensor:
    """The power of two nearest to a matrix's standard deviation by its logarithm; 1 for one that is all equal."""
    spread = weight_OI.detach().float().std()
    return torch.where(spread > 0, spread.log2().round().exp2(), 1.0).to(weight_OI.dtype)


class StaticFloat8(Formats):
    """x in E4M3, W / alpha in E4M3, and dy in E5M2 behind a static factor."""

    def __init__(self, gradient_factor: float) -> None:
        self.gradient_factor = gradient_factor

    def weight(self, weight_OI: Tensor, own: Tensor | None) -> ScaledCodes:
        assert own is not None
        return ScaledCodes(cast(weight_OI / own, E4M3), own)

    def activation(self, x_RI: Tensor) -> ScaledCodes:
        return ScaledCodes(cast(x_RI, E4M3), x_RI.new_ones(()))

    def gradient(self, dy_RO: Tensor, counter: Tensor) -> ScaledCodes:
        return ScaledCodes(cast(dy_RO * self.gradient_factor, E5M2), dy_RO.new_full((), 1 / self.gradient_factor))

    def values(self, packed: ScaledCodes, dtype: torch.dtype) -> Tensor:
        return packed.codes.to(dtype) * packed.scale


class ScaledLinear(RoundedLinear):
    """A layer with its alpha, which no checkpoint holds, since it follows from the weights that a run begins with."""

    alpha: Tensor

    def __init__(self, name: str, linear: nn.Linear, scheme: StaticFloat8) -> None:
        super().__init__(name, linear, scheme, 0)
        self.register_buffer("alpha", alpha_of(linear.weight), persistent=False)

    def own(self) -> Tensor:
        return self.alpha


class MuS(Rounding):
    name: Literal["mus"] = "mus"
    gradient_bits: int = Field(
        14,
        ge=0,
        le=60,
        description="gradients are multiplied by 2 to this power before they are rounded, and divided behind",
    )

    def rounded(self, name: str, linear: nn.Linear) -> RoundedLinear:
        return ScaledLinear(name, linear, StaticFloat8(2.0**self.gradient_bits))
