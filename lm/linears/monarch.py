"""Monarch: each matrix is a product of two block-diagonal ones with a permutation between them.

Dao et al. 2022, arXiv:2204.00595: the inputs are cut into B blocks, each goes through a matrix of its own, what comes out is
dealt round the B blocks of the second, and what those give is dealt round again. The middle has the shorter side's width, as in
the authors' layer, so that a square matrix of N x N has 2 N^2 / B numbers. A matrix that is there begins as the nearest such
product, which has a closed form (algorithm 1): the part that leads from a block of the first to one of the second has a rank of
M / B^2, and is cut to its largest singular values.

Differs from the paper: in training from scratch, too, the layer begins as the nearest to the matrix that was drawn, which has
a part of the model's own spread, where the paper draws blocks; a layer whose sides B does not cut evenly has the most blocks
below B that do; the way back to dense (reverse sparsification) is a stage that follows, which begins from the product.

Letters: O outputs, I inputs, B blocks, M middle.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lm.linears.base import ReparametrizedLinear, SelectiveLinearMethod


def blocks_of(rows: int, columns: int, most: int) -> int:
    """The most blocks up to `most` that cut both sides evenly, and the shorter one twice."""
    middle = min(rows, columns)
    return next(n for n in range(most, 0, -1) if rows % n == 0 == columns % n and middle % (n * n) == 0)


def monarch(x: Tensor, first_MI: Tensor, second_OM: Tensor, blocks: int) -> Tensor:
    """y of the two products. first_MI: M rows of I / B columns, block by block; second_OM: O rows of M / B columns, likewise.
    Output o is row o // B of block o % B of the second, which takes every B-th number of the middle."""
    rows_BTI = x.reshape(-1, blocks, x.shape[-1] // blocks).transpose(0, 1)
    middle_BTM = torch.bmm(rows_BTI, first_MI.view(blocks, -1, first_MI.shape[1]).transpose(1, 2))
    dealt_TM = middle_BTM.transpose(0, 1).reshape(middle_BTM.shape[1], -1, blocks)
    second_BTO = torch.bmm(dealt_TM.permute(2, 0, 1), second_OM.view(blocks, -1, second_OM.shape[1]).transpose(1, 2))
    return second_BTO.permute(1, 2, 0).reshape(*x.shape[:-1], len(second_OM))


def nearest(weight_OI: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
    """(first_MI, second_OM) of the product that is nearest to a matrix in the norm of Frobenius."""
    rows, columns = weight_OI.shape
    rank = min(rows, columns) // blocks**2
    # of second's block l and first's block k: outputs s B + l from inputs of k, by the rank's numbers of the middle
    parts_KLSP = weight_OI.view(rows // blocks, blocks, blocks, columns // blocks).permute(2, 1, 0, 3)
    left, values, right = torch.linalg.svd(parts_KLSP, full_matrices=False)
    roots = values[..., :rank].sqrt()
    left_KLSR, right_KLRP = left[..., :rank] * roots[..., None, :], roots[..., None] * right[..., :rank, :]
    # number r of the meeting of k and l is number r B + l of what the first's block k gives
    first_MI = right_KLRP.permute(0, 2, 1, 3).reshape(-1, columns // blocks)
    second_OM = left_KLSR.permute(1, 2, 0, 3).reshape(rows, -1)
    return first_MI.contiguous(), second_OM.contiguous()


class MonarchLinear(ReparametrizedLinear):
    """x through the first matrix of blocks, dealt, through the second, dealt, + bias; there is no other matrix."""

    roles = {"bias": "vector", "first": "matrix", "second": "matrix"}  # noqa: RUF012

    def __init__(self, linear: nn.Linear, most: int) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        del self.weight
        self.bias, self.blocks = linear.bias, blocks_of(self.out_features, self.in_features, most)
        first_MI, second_OM = nearest(linear.weight.detach(), self.blocks)
        self.first, self.second = nn.Parameter(first_MI), nn.Parameter(second_OM)

    def forward(self, x: Tensor) -> Tensor:
        made = monarch(x, self.first, self.second, self.blocks)
        return made if self.bias is None else made + self.bias.to(made.dtype)

    def flops(self) -> float:
        """FLOP of the two products: 2 for each number forward, 4 backward."""
        return 6.0 * (self.first.numel() + self.second.numel())

    def dense(self) -> Tensor:
        inputs = torch.eye(self.in_features, device=self.first.device, dtype=self.first.dtype)
        return monarch(inputs, self.first, self.second, self.blocks).T.contiguous()


class Monarch(SelectiveLinearMethod):
    name: Literal["monarch"] = "monarch"
    blocks: int = Field(
        4, gt=0, description="of either matrix; the authors: 4; fewer where a layer's sides do not divide"
    )

    def build(self, name: str, linear: nn.Linear) -> nn.Linear:
        """A layer of blocks, or the layer itself where it is not meant."""
        if not self.applies_to(name):
            return linear
        return MonarchLinear(linear, self.blocks)

    def packs(self) -> bool:
        return True
