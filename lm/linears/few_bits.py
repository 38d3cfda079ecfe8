"""Few bits while training: each product is made with the whole numbers that the matrix will be packed as.

Rounding passes gradients straight through (Bengio et al. 2013, arXiv:1308.3432). With a step that is learned it is LSQ (Esser
et al. 2020, arXiv:1902.08153); with a product of two thin matrices inside of the rounding, which alone is trained, it is L4Q
(Jeon et al. 2024, arXiv:2402.04902), and where steps stay, after LR-QAT (Bondarenko et al. 2024, arXiv:2406.06385). What is
merged is on the grid to the bit, and quantization packs it as it was trained.

Differs from the papers: what is learned is the logarithm of a step over its first value, so that a rate for weights moves it by
as large a part, and without LSQ's factor on its gradient, which Adam does not see; steps are those of groups along a row, in
bfloat16, and begin with the largest magnitude, as in L4Q; LR-QAT counts its product in steps, and keeps what stays in fewer
bits.

Letters: O outputs, I inputs, N groups of columns in a row, R rank.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lm.linears.adapter import generator_of, low_rank
from lm.linears.base import LinearMethod, ReparametrizedLinear, SelectiveLinearMethod, dense_flops
from lm.quantized.base import by_column
from lm.quantized.counts import Counts, pack
from lm.quantized.trained import TrainedIn


def straight_through(rounded: Tensor, exact: Tensor) -> Tensor:
    """The rounded values, whose gradient is that of the exact ones."""
    return exact + (rounded - exact).detach()


def least_steps(groups_ONG: Tensor, bits: int) -> Tensor:
    """steps_ON, the least that cut neither end of a group of G weights, where codes go from -2^(b-1) to 2^(b-1) - 1; 0 where
    all of a group is 0."""
    lowest = 2 ** (bits - 1)
    return torch.maximum(groups_ONG.amax(2) / (lowest - 1), -groups_ONG.amin(2) / lowest)


def first_steps(weight_OI: Tensor, bits: int, group: int) -> Tensor:
    """steps_ON that cut no weight; 1 where all of a group is 0."""
    rows, columns = weight_OI.shape
    steps = least_steps(F.pad(weight_OI, (0, -columns % group)).view(rows, -1, group), bits)
    return torch.where(steps > 0, steps, 1.0)


class FewBitsLinear(ReparametrizedLinear):
    """x (s clip(round(W / s)))^T + bias, W being the matrix with a thin product, where there is one."""

    roles = {"weight": "matrix", "bias": "vector", "stretch": "vector", "down": "matrix", "up": "matrix"}  # noqa: RUF012
    first_ON: Tensor

    def __init__(self, linear: nn.Linear, method: "FewBits", generator: torch.Generator) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.weight, self.bias = linear.weight, linear.bias
        self.bits, self.group, self.rank = method.bits, method.group, method.rank
        weight_OI = self.weight.detach()
        # no checkpoint holds them: they follow from the weights that a run begins with
        self.register_buffer("first_ON", first_steps(weight_OI, self.bits, self.group), persistent=False)
        self.stretch = nn.Parameter(torch.zeros_like(self.first_ON), method.steps == "learned")
        if self.rank:
            self.scale = method.alpha / self.rank
            bound = self.in_features**-0.5  # as torch draws a Linear layer
            down_RI = torch.empty(self.rank, self.in_features).uniform_(-bound, bound, generator=generator)
            self.down = nn.Parameter(down_RI.to(weight_OI.device))
            self.up = nn.Parameter(torch.zeros(self.out_features, self.rank, device=weight_OI.device))

    def steps(self) -> Tensor:
        """steps_ON in fp32, of numbers that bfloat16 has."""
        exact_ON = self.first_ON * self.stretch.exp()
        return straight_through(exact_ON.to(torch.bfloat16).to(exact_ON.dtype), exact_ON)

    def codes_and_steps(self) -> tuple[Tensor, Tensor]:
        """(counts_OI, whole numbers of steps; steps_ON)."""
        steps_ON = self.steps()
        weight_OI = low_rank(self.weight, self.up, self.down, self.scale) if self.rank else self.weight
        lowest, highest = -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1
        exact_OI = (weight_OI / by_column(steps_ON, self.group, self.in_features)).clamp(lowest, highest)
        return straight_through(exact_OI.round(), exact_OI), steps_ON

    def dense(self) -> Tensor:
        counts_OI, steps_ON = self.codes_and_steps()
        return counts_OI * by_column(steps_ON, self.group, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dense(), self.bias)

    def flops(self) -> float:
        """FLOP of a dense product whose matrix's gradient is made, whatever is trained of it, and of the thin product, which is
        made once for all tokens and not counted."""
        return 6.0 * self.in_features * self.out_features if self.rank else dense_flops(self.weight)

    @torch.no_grad()
    def packed(self) -> Counts:
        """The whole numbers that the product is made with."""
        counts_OI, steps_ON = self.codes_and_steps()
        codes_OI = counts_OI + 2 ** (self.bits - 1)
        return pack(codes_OI, steps_ON.to(torch.bfloat16), None, self.bits, self.group)


class CodedLinearMethod(LinearMethod):
    """A method whose layers say by `packed` which whole numbers their products are made with."""

    def artifact(self, layers: Mapping[str, Any]) -> TrainedIn:
        """What quantization packs the layers as."""
        return TrainedIn({name: layer.packed() for name, layer in layers.items()})


class FewBits(CodedLinearMethod, SelectiveLinearMethod):
    name: Literal["few_bits"] = "few_bits"
    bits: Literal[2, 3, 4, 8] = 4
    group: int = Field(32, gt=0, description="columns of a row that share a step, of 16 bits")
    steps: Literal["learned", "fixed"] = "learned"
    rank: int = Field(
        0,
        ge=0,
        description="of the thin product inside of the rounding, which alone is trained; 0: all of the matrix is",
    )
    alpha: float = Field(16.0, gt=0, description="the thin product counts alpha / rank")
    seed: int = Field(0, ge=0, description="of the first values of the thin product")

    def frozen_parameters(self, names: list[str]) -> set[str]:
        return set(names) if self.rank else set()

    def build(self, name: str, linear: nn.Linear) -> nn.Linear:
        """A layer that rounds, or the layer itself where it is not meant."""
        if not self.applies_to(name):
            return linear
        return FewBitsLinear(linear, self, generator_of(self.seed, name))
