"""AWQ: columns whose inputs are large are multiplied before rounding, so that they lose less of themselves (Lin et al. 2024).

arXiv:2306.00978, section 3.2, equations 4 and 5. Differs from the paper: the factors lie beside the matrix in 16 bits a column,
where the paper has what comes before it divided by them, so that each matrix has its own and what is lost is searched for each
by itself; and no range is clipped.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.calibration import LayerInputs
from lm.quantized.counts import Counts
from tasks.quantize.error import output_error
from tasks.quantize.grid import Grid, round_by_group


def factors(magnitude_I: Tensor, share: float) -> Tensor:
    """columns_I in bfloat16: the mean magnitude of each input to the power of `share`, about 1 in the middle of the smallest
    and the largest."""
    powers = magnitude_I.clamp(min=1e-4) ** share
    return (powers / (powers.max() * powers.min()).sqrt()).to(torch.bfloat16)


class Awq(Grid):
    name: Literal["awq"] = "awq"
    bytes_a_column: ClassVar[int] = 2
    tried: int = Field(
        20, gt=0, description="powers of the inputs' magnitude between 0 and 1, of which the best is taken"
    )

    def __call__(self, weight_OI: Tensor, inputs: LayerInputs | None = None) -> Counts:
        """Weights packed with the factors by which least of the output is lost; without calibration, or where no factor helps,
        rounded to nearest by group. Raises ValueError when an entry is not finite."""
        best = round_by_group(weight_OI, self.bits, self.group, self.symmetric)
        if inputs is None:
            return best
        least = output_error(weight_OI, best.dequantize(), inputs)
        for number in range(1, self.tried + 1):
            columns_I = factors(inputs.magnitude_I, number / self.tried)
            scaled = weight_OI.double() * columns_I.double()
            found = round_by_group(scaled, self.bits, self.group, self.symmetric, columns_I)
            error = output_error(weight_OI, found.dequantize(), inputs)
            if error < least:
                best, least = found, error
        return best
