"""Round to nearest in 4 bits, with a scale and a minimum for every group of columns, as in llama.cpp's Q4_1."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.config import Config
from lm.quantized import Packed, check_matrix, pack
from tasks.quantize.grid import codes_of, fit


def round_by_group(weight_OI: Tensor, group: int) -> Packed:
    """Codes 0 to 15 for the minimum of each group to its maximum; no entry moves by more than half a step.

    With a minimum, not symmetric about 0: 16 codes over the range that a group has. On normal weights in groups of 32
    its squared error is 0.66 of that of 15 symmetric codes and 0.84 of that of Q4_0's 16, for half a bit more a weight.
    Raises ValueError when an entry is not finite.
    """
    check_matrix(weight_OI)
    weight = weight_OI.double()
    rows, columns = weight.shape
    # a shorter last group is filled with its last entry, which leaves its range alone
    filled = torch.cat((weight, weight[:, -1:].expand(-1, -columns % group)), dim=1).view(rows, -1, group)
    minima, scales = fit(filled)
    codes = codes_of(filled, minima, scales)
    return pack(codes.view(rows, -1)[:, :columns], scales, minima, bits=4, group=group)


class Int4Group(Config):
    name: Literal["int4_group"] = "int4_group"
    needs_calibration: ClassVar[bool] = False
    group: int = Field(32, gt=0, description="columns that share a scale and a minimum, which are 32 bits together")

    def __call__(self, weight_OI: Tensor, calibration_NI: Tensor | None = None) -> Packed:
        return round_by_group(weight_OI, self.group)
