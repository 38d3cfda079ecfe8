"""GPTQ: columns are rounded one after the other, and what one loses the later ones make up for (Frantar et al. 2023).

arXiv:2210.17323, algorithm 1. Differs from the paper: columns in their own order, float64, and a minimum beside the scale of a
group. A group's range is taken when its turn comes, from columns already changed.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.calibration import upper_factor
from lm.config import Config
from lm.quantized import Packed, check_matrix, pack
from tasks.quantize.grid import codes_of, fit

# Columns whose changes reach the rest of the matrix at once; changes speed alone.
BLOCK = 128


def gptq(weight_OI: Tensor, inputs_NI: Tensor, group: int, damping: float) -> Packed:
    """Codes that keep inputs @ weight' near what it was. Raises ValueError when a weight or an input is not finite."""
    check_matrix(weight_OI)
    if not torch.isfinite(inputs_NI).all():
        raise ValueError("cannot be quantized: its inputs have NaN or infinite entries")
    weight = weight_OI.double().clone()
    upper_II = upper_factor(inputs_NI, damping)
    rows, columns = weight.shape
    codes, minima, scales = torch.empty_like(weight), [], []
    block = group * max(BLOCK // group, 1)
    for start in range(0, columns, block):
        end = min(start + block, columns)
        lost = weight.new_zeros(rows, end - start)
        for column in range(start, end):
            if column % group == 0:
                low, step = fit(weight[:, None, column : min(column + group, columns)])
                minima.append(low)
                scales.append(step)
            value = weight[:, column]
            codes[:, column] = codes_of(value[:, None, None], minima[-1], scales[-1]).flatten()
            rounded = (minima[-1].double() + codes[:, column, None] * scales[-1].double()).flatten()
            lost[:, column - start] = (value - rounded) / upper_II[column, column]
            weight[:, column:end] -= lost[:, column - start, None] * upper_II[column, column:end]
        weight[:, end:] -= lost @ upper_II[start:end, end:]
    return pack(codes, torch.cat(scales, 1), torch.cat(minima, 1), bits=4, group=group)


class Gptq(Config):
    name: Literal["gptq"] = "gptq"
    needs_calibration: ClassVar[bool] = True
    group: int = Field(32, gt=0, description="columns that share a scale and a minimum, which are 32 bits together")
    damping: float = Field(0.01, gt=0, description="of the mean diagonal of the inputs' second moments")

    def __call__(self, weight_OI: Tensor, calibration_NI: Tensor | None = None) -> Packed:
        """Weights packed by GPTQ. With no calibration every input counts the same, which is round to nearest by group."""
        inputs = torch.eye(weight_OI.shape[1], device=weight_OI.device) if calibration_NI is None else calibration_NI
        return gptq(weight_OI, inputs, self.group, self.damping)
