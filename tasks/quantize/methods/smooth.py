"""SmoothQuant: what is hard to round in the inputs is moved into the weights (Xiao et al. 2023, arXiv:2211.10438, equation 4).

A few columns of inputs are far larger than the others and leave these few steps. Inputs are divided by a factor a column, and
the weights' columns multiplied by it, before both are rounded: for `quantize.activation: {name: int8}`. Differs from the
paper: the factors lie beside the matrix in 16 bits a column, where the paper has the norm before it divided by them, so that
each matrix has its own; weights have a step a group of columns.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.calibration import LayerInputs
from lm.quantized.base import check_matrix
from lm.quantized.counts import Counts
from tasks.quantize.grid import Bits, Grid, round_by_group


def factors(largest_I: Tensor, weight_OI: Tensor, alpha: float) -> Tensor:
    """columns_I in bfloat16: max |x_j|^alpha / max |w_j|^(1 - alpha); 1 for a column that is 0 in either."""
    of_weights_I = weight_OI.double().abs().amax(0)
    found = largest_I**alpha / of_weights_I ** (1 - alpha)
    there = (largest_I > 0) & (of_weights_I > 0)
    return torch.where(there, found.clamp(1e-30, 1e30), 1.0).to(torch.bfloat16)


class SmoothQuant(Grid):
    name: Literal["smooth"] = "smooth"
    bytes_a_column: ClassVar[int] = 2
    bits: Bits = 8
    alpha: float = Field(
        0.5,
        ge=0,
        le=1,
        description="part of the difficulty that goes from inputs to weights; the paper: 0.5, 0.75 for GLM",
    )

    def __call__(self, weight_OI: Tensor, inputs: LayerInputs | None = None) -> Counts:
        """Weights packed with the factors; without calibration rounded as they are. Raises ValueError when an entry is not
        finite."""
        check_matrix(weight_OI)
        if inputs is None:
            return round_by_group(weight_OI, self.bits, self.group, self.symmetric)
        columns_I = factors(inputs.largest_I, weight_OI, self.alpha)
        scaled = weight_OI.double() * columns_I.double()
        return round_by_group(scaled, self.bits, self.group, self.symmetric, columns_I)
