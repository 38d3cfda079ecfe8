"""Pixelfly, pixelated butterfly: each matrix is some blocks of numbers, in a pattern that is fixed beforehand, and a product of
low rank: W = mix B + (1 - mix) U V^T.

Dao et al. 2021, arXiv:2112.00029, section 3: B is a flat block butterfly. Of a square of N x N blocks, N a power of 2, block
(i, j) is there where i = j, or where i and j differ in one binary digit, up to a greatest stride: what butterfly matrices
multiplied together would reach, added in place of multiplied. Of matrices that are no such square the pattern is that of one
stretched over them. A share of a budget of numbers goes to the product of low rank, and the stride is the greatest that what is
left pays for. `mix` is a trained number. Only blocks that are there are multiplied, forward and backward.

Differs from the paper: every matrix has the same budget, where it shares one over kinds of layers by what they cost; blocks
begin as what the drawn matrix has there, and U as zeros; a trained matrix is lost but for these numbers, so that the method is
one for pretraining; a layer that blocks of this side do not cut evenly has the largest below it that do.

Letters: O outputs, I inputs, T tokens, B side of a block, K blocks there, P blocks along outputs, Q along inputs, R rank.
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

# Of the blocks at first, against the product
FIRST_MIX = 0.5


def flat_butterfly(side: int, stride: int) -> list[list[bool]]:
    """Whether each block of a square of so many, a power of 2, is there: those of the diagonal are, and those whose row and
    column differ in one binary digit that is worth less than the stride. A stride of 1 is the diagonal alone, one of `side`
    all digits."""

    def there(row: int, column: int) -> bool:
        apart = row ^ column
        return apart < stride and apart & (apart - 1) == 0

    return [[there(row, column) for column in range(side)] for row in range(side)]


def stretched(rows: int, columns: int, stride: int) -> list[tuple[int, int]]:
    """(row, column) of the blocks that are there of P x Q, row by row: the pattern of the greatest square of a power of 2
    within them, stretched over both sides."""
    side = 1 << (min(rows, columns).bit_length() - 1)
    mask = flat_butterfly(side, stride)
    every = ((row, column) for row in range(rows) for column in range(columns))
    return [(row, column) for row, column in every if mask[row * side // rows][column * side // columns]]


def pattern(rows: int, columns: int, most: int) -> list[tuple[int, int]]:
    """The blocks of the greatest stride that are at most so many; those of the diagonal in any case."""
    found = stretched(rows, columns, 1)
    stride = 2
    while stride <= min(rows, columns) and len(wider := stretched(rows, columns, stride)) <= most:
        found, stride = wider, 2 * stride
    return found


def side_of(rows: int, columns: int, most: int) -> int:
    """The largest side up to `most` of blocks that cut both sides of a matrix evenly."""
    return next(n for n in range(most, 0, -1) if rows % n == 0 == columns % n)


def cut(rows_TN: Tensor, side: int) -> Tensor:
    """blocks_NTB of the columns of a matrix."""
    return rows_TN.view(len(rows_TN), -1, side).transpose(0, 1)


def joined(blocks_KTB: Tensor, places_K: Tensor, count: int) -> Tensor:
    """rows_TN of blocks that are added up at their places, of so many."""
    summed = blocks_KTB.new_zeros(count, *blocks_KTB.shape[1:]).index_add(0, places_K, blocks_KTB)
    return summed.transpose(0, 1).reshape(blocks_KTB.shape[1], -1)


class _Product(torch.autograd.Function):
    """x B^T by the blocks that are there. Inputs are laid out by blocks again in the backward, and are not kept so."""

    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, blocks_KBB: Tensor, rows_K: Tensor, columns_K: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(x_TI, blocks_KBB, rows_K, columns_K)
        given_KTB = cut(x_TI, blocks_KBB.shape[2])[columns_K]
        return joined(torch.bmm(given_KTB, blocks_KBB.transpose(1, 2)), rows_K, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TO: Tensor) -> tuple[Tensor | None, Tensor, None, None, None]:
        x_TI, blocks_KBB, rows_K, columns_K = ctx.saved_tensors
        side, dx_TI = blocks_KBB.shape[2], None
        dy_KTB = cut(dy_TO.contiguous(), side)[rows_K]
        if ctx.needs_input_grad[0]:
            back_KTB = torch.bmm(dy_KTB, blocks_KBB.to(dy_TO.dtype))
            dx_TI = joined(back_KTB, columns_K, x_TI.shape[1] // side).to(x_TI.dtype)
        given_KTB = cut(x_TI.to(dy_TO.dtype), side)[columns_K]
        return dx_TI, torch.bmm(dy_KTB.transpose(1, 2), given_KTB).to(blocks_KBB.dtype), None, None, None


class PixelflyLinear(ReparametrizedLinear):
    """x (mix blocks + (1 - mix) up down)^T + bias; there is no other matrix. blocks: K B rows of B columns, block by block."""

    roles = {  # noqa: RUF012
        "bias": "vector", "blocks": "matrix", "down": "matrix", "up": "matrix", "mix": "vector"
    }  # fmt: skip
    rows_K: Tensor
    columns_K: Tensor

    def __init__(self, linear: nn.Linear, method: "Pixelfly", generator: torch.Generator) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        weight_OI = linear.weight.detach()
        del self.weight
        self.bias, device = linear.bias, weight_OI.device
        self.side = side_of(self.out_features, self.in_features, method.block)
        outputs, inputs = self.out_features // self.side, self.in_features // self.side
        there = pattern(outputs, inputs, int((1 - method.low_rank) * method.density * outputs * inputs))
        rows, columns = (list(each) for each in zip(*there, strict=True))
        self.register_buffer("rows_K", torch.tensor(rows, device=device), persistent=False)
        self.register_buffer("columns_K", torch.tensor(columns, device=device), persistent=False)
        blocks_PQBB = weight_OI.view(outputs, self.side, inputs, self.side).transpose(1, 2)
        self.blocks = nn.Parameter(blocks_PQBB[self.rows_K, self.columns_K].reshape(-1, self.side) / FIRST_MIX)
        pays = method.low_rank * method.density * weight_OI.numel() / (self.out_features + self.in_features)
        rank, bound = max(1, int(pays)), 1 / math.sqrt(self.in_features)  # as torch draws a Linear layer
        down_RI = torch.empty(rank, self.in_features).uniform_(-bound, bound, generator=generator)
        self.down = nn.Parameter(down_RI.to(device))
        self.up = nn.Parameter(torch.zeros(self.out_features, rank, device=device))
        self.mix = nn.Parameter(torch.full((1,), FIRST_MIX, device=device))

    def mixed(self) -> tuple[Tensor, Tensor]:
        """(blocks_KBB, up_OR) as they count: scaled themselves, since results of products would have to be kept for it."""
        return self.mix * self.blocks.view(-1, self.side, self.side), (1 - self.mix) * self.up

    def forward(self, x: Tensor) -> Tensor:
        rows_TI = x.reshape(-1, self.in_features)
        blocks_KBB, up_OR = self.mixed()
        made = _Product.apply(rows_TI, blocks_KBB, self.rows_K, self.columns_K, self.out_features // self.side)
        thin = F.linear(F.linear(rows_TI, self.down), up_OR, self.bias)
        return (made + thin).view(*x.shape[:-1], self.out_features)

    def flops(self) -> float:
        """FLOP of the blocks that are there and of the two thin products: 2 for each number forward, 4 backward."""
        return 6.0 * (self.blocks.numel() + self.down.numel() + self.up.numel())

    def dense(self) -> Tensor:
        blocks_KBB, up_OR = self.mixed()
        outputs, inputs = self.out_features // self.side, self.in_features // self.side
        blocks_PQBB = blocks_KBB.new_zeros(outputs, inputs, self.side, self.side)
        blocks_PQBB = blocks_PQBB.index_put((self.rows_K, self.columns_K), blocks_KBB)
        return blocks_PQBB.transpose(1, 2).reshape(self.out_features, self.in_features) + up_OR @ self.down


class Pixelfly(SelectiveLinearMethod):
    name: Literal["pixelfly"] = "pixelfly"
    block: int = Field(16, gt=0, description="side of a block, at most; the paper: 32, which a GPU reads at once")
    density: float = Field(0.4, gt=0, le=1, description="numbers of a matrix's parts over its own, about")
    low_rank: float = Field(
        0.25, gt=0, le=1, description="share of these that the low-rank product has; the paper: a quarter to a third"
    )
    seed: int = Field(0, ge=0, description="of the first values of the product")

    def build(self, name: str, linear: nn.Linear) -> nn.Linear:
        """A layer of blocks and a thin product, or the layer itself where it is not meant."""
        if not self.applies_to(name):
            return linear
        return PixelflyLinear(linear, self, generator_of(self.seed, name))

    def packs(self) -> bool:
        return True
