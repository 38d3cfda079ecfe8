"""What every way to empty a matrix shares: how many weights go, and among which they are compared.

Letters: O outputs (rows), I inputs (columns), M weights of a group, G groups.
"""

from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from lm.calibration import LayerInputs
from lm.config import Config


class PruneMethod(Config):
    """needs_inputs: whether it asks for what the matrix has seen."""

    needs_inputs: ClassVar[bool] = True
    share: float = Field(0.5, gt=0, lt=1, description="of the weights, which become 0")
    of: int = Field(
        0,
        ge=0,
        description="weights of a group along a row, each of which loses its share: 4 with share 0.5 is 2:4; 0: none",
    )

    @model_validator(mode="after")
    def _whole_groups(self) -> "PruneMethod":
        if self.of and (round(self.share * self.of) in (0, self.of) or self.of == 1):
            raise ValueError(f"of {self.of} weights a share of {self.share} is none or all: take a larger group")
        return self

    def __call__(self, weight_OI: Tensor, inputs: LayerInputs | None) -> Tensor:
        raise NotImplementedError


def prune_mask(scores_OI: Tensor, share: float, of: int, by_row: bool) -> Tensor:
    """Whether each weight goes, (O, I): the share with the lowest scores, among all of the matrix, those of a row, or in groups
    of `of` along rows the round(share x of) lowest of each, of a shorter last group its share; of equals the first."""
    rows, columns = scores_OI.shape
    if of:
        parts = [_lowest(part, round(share * part.shape[1])) for part in scores_OI.split(of, dim=1)]
        return torch.cat(parts, dim=1)
    if by_row:
        return _lowest(scores_OI, round(share * columns))
    return _lowest(scores_OI.reshape(1, -1), round(share * rows * columns)).view(rows, columns)


def _lowest(scores_OI: Tensor, count: int) -> Tensor:
    order = scores_OI.sort(dim=1, stable=True).indices[:, :count]
    return torch.zeros_like(scores_OI, dtype=torch.bool).scatter(1, order, True)
