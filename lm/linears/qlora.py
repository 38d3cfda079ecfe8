"""QLoRA: the matrix that stays is held in 4 bits, and LoRA learns beside what these say.

Dettmers et al. 2023, arXiv:2305.14314. A pass makes the matrix anew from its codes, and so does its backward, so that no more
than one lies in memory at a time. Differs from the paper: scales are not quantized a second time, and take 0.5 bits a weight
in place of 0.127; blocks of weights lie within rows; and the optimizer is not paged. A run ends with the matrix that was
multiplied with: what the codes say, and the adapter, added in fp32. With `start: pissa` the codes are those of what is left of
the matrix without its largest singular values, which is QPiSSA (Meng et al. 2024, arXiv:2404.02948).

Letters: O outputs, I inputs, N blocks of columns in a row, R rank.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lm.linears.adapter import AdaptedLinear, LowRank, low_rank
from lm.quantized.base import by_column
from lm.quantized.counts import pack, unpacked

# What the codes 0 to 15 are, in shares of the largest magnitude of a block. nf4: quantiles of a normal distribution (appendix E
# of the paper). int4: whole numbers of -7 to 7; code 15 is no nearest one of anything.
LEVELS = {
    "nf4": (
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
        -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ),
    "int4": tuple(number / 7 for number in range(-7, 9)),
}  # fmt: skip


def quantize(weight_OI: Tensor, levels_16: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """(codes, two of them in a byte, scales_ON): the nearest levels of the weights over the largest magnitude of their block
    (the paper's equations 1 and 2, with a data type's levels)."""
    rows, columns = weight_OI.shape
    scales_ON = F.pad(weight_OI, (0, -columns % block)).view(rows, -1, block).abs().amax(2)
    steps_OI = by_column(torch.where(scales_ON > 0, scales_ON, 1.0), block, columns)
    codes_OI = torch.bucketize(weight_OI / steps_OI, (levels_16[1:] + levels_16[:-1]) / 2)
    return pack(codes_OI, scales_ON, None, bits=4, group=block).codes, scales_ON


def dequantize(codes: Tensor, scales_ON: Tensor, levels_16: Tensor, block: int, columns: int) -> Tensor:
    """weight_OI in fp32."""
    codes_OI = unpacked(codes, 4, columns)
    levels_OI = levels_16.index_select(0, codes_OI.flatten().int()).view(codes_OI.shape)
    return levels_OI.mul_(by_column(scales_ON, block, columns))


class _Product(torch.autograd.Function):
    """x weight^T of a matrix that is made of its codes where it is needed; only x gets a gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, codes: Tensor, scales_ON: Tensor, levels_16: Tensor, block: int, columns: int
    ) -> Tensor:
        ctx.save_for_backward(codes, scales_ON, levels_16)
        ctx.block, ctx.columns, ctx.dtype = block, columns, x.dtype
        return F.linear(x, dequantize(codes, scales_ON, levels_16, block, columns))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        codes, scales_ON, levels_16 = ctx.saved_tensors
        weight_OI = dequantize(codes, scales_ON, levels_16, ctx.block, ctx.columns).to(dy.dtype)
        return (dy @ weight_OI).to(ctx.dtype), None, None, None, None, None


class QLoRALinear(AdaptedLinear):
    """x dequantized^T + scale * x down^T up^T + bias; begins as the matrix that its codes say."""

    roles = {"bias": "vector", "down": "matrix", "up": "matrix"}  # noqa: RUF012
    codes: Tensor
    scales_ON: Tensor
    levels_16: Tensor

    def __init__(
        self,
        linear: nn.Linear,
        method: LowRank,
        rank: int,
        scale: float,
        generator: torch.Generator,
        levels: tuple[float, ...],
        block: int,
    ) -> None:
        super().__init__(linear, method, rank, scale, generator)
        weight_OI = self.weight.detach()
        del self.weight
        self.block = block
        self.register_buffer("levels_16", torch.tensor(levels, device=weight_OI.device), persistent=False)
        codes, scales_ON = quantize(weight_OI, self.levels_16, block)
        # what they are follows from the weights that a run begins with, so that no checkpoint holds them
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("scales_ON", scales_ON, persistent=False)

    def base(self, x_TI: Tensor) -> Tensor:
        made_TO = _Product.apply(x_TI, self.codes, self.scales_ON, self.levels_16, self.block, self.in_features)
        return made_TO if self.bias is None else made_TO + self.bias.to(made_TO.dtype)

    def frozen_weight(self) -> Tensor:
        """weight_OI of the matrix that stays, dequantized."""
        return dequantize(self.codes, self.scales_ON, self.levels_16, self.block, self.in_features)

    def dense(self) -> Tensor:
        return low_rank(self.frozen_weight(), self.up, self.down, self.scale)


class QLoRA(LowRank):
    name: Literal["qlora"] = "qlora"
    data_type: Literal["nf4", "int4"] = Field("nf4", description="what the 16 codes are: NormalFloat, or whole numbers")
    block: int = Field(64, gt=0, description="columns of a row that share a scale, of 32 bits")

    def adapted(self, linear: nn.Linear, rank: int, scale: float, generator: torch.Generator) -> AdaptedLinear:
        return QLoRALinear(linear, self, rank, scale, generator, LEVELS[self.data_type], self.block)
