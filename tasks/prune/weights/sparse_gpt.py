"""Weights go one column after the other, and what is lost by each the later ones make up for: SparseGPT, Frantar and Alistarh
2023 (arXiv:2301.00774), algorithm 1."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.calibration import LayerInputs
from tasks.prune.weights.base import PruneMethod, prune_mask

# Columns of which the weights that go are chosen together: the paper's adaptive mask selection
BLOCK = 128


class SparseGpt(PruneMethod):
    """Weights are chosen by w^2 over the diagonal of the inverse of the inputs' second moments, of BLOCK columns at a time as
    they are then, or of each group of `of` when its turn comes; those of an input never seen go first. Differs from the paper:
    float64, and no weight is quantized on the way."""

    name: Literal["sparse_gpt"] = "sparse_gpt"
    damping: float = Field(0.01, gt=0, description="of the mean diagonal of the inputs' second moments")

    def __call__(self, weight_OI: Tensor, inputs: LayerInputs | None) -> Tensor:
        """Raises ValueError without inputs."""
        if inputs is None:
            raise ValueError("sparse_gpt needs the inputs that the matrix has seen")
        weight, upper_II = weight_OI.double().clone(), inputs.factor(self.damping)
        columns = weight.shape[1]
        weight[:, (inputs.rows_NI == 0).all(0)] = 0
        # groups are not cut by blocks
        block = BLOCK // self.of * self.of if self.of and self.of < BLOCK else self.of or BLOCK
        for start in range(0, columns, block):
            end = min(start + block, columns)
            going = torch.zeros(len(weight), end - start, dtype=torch.bool, device=weight.device)
            lost = torch.zeros_like(weight[:, start:end])
            for column in range(start, end):
                if column == start or (self.of and (column - start) % self.of == 0):
                    some = slice(column, min(column + self.of, columns) if self.of else end)
                    scores = weight[:, some].square() / upper_II.diagonal()[some].square()
                    going[:, some.start - start : some.stop - start] = prune_mask(
                        scores, self.share, self.of, by_row=False
                    )
                value = weight[:, column].clone()
                left = value.masked_fill(going[:, column - start], 0)
                lost[:, column - start] = (value - left) / upper_II[column, column]
                weight[:, column:end] -= lost[:, column - start, None] * upper_II[column, column:end]
                weight[:, column] = left
            weight[:, end:] -= lost @ upper_II[start:end, end:]
        return weight.to(weight_OI.dtype)
