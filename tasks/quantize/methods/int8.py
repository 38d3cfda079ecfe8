"""Round to nearest in 8 bits with one scale a row: absmax quantization, as in LLM.int8 (arXiv:2208.07339), section 2.1."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from lm.calibration import LayerInputs
from lm.config import Config
from lm.quantized.base import check_matrix
from lm.quantized.counts import Counts, pack


def round_by_row(weight_OI: Tensor) -> Counts:
    """Codes 1 to 255 for -127 to 127 steps of max|row| / 127; no entry moves by more than half a step.

    Scales are bfloat16: its range is float32's, and as the codes count the stored step, its rounding costs no accuracy.
    Raises ValueError when an entry is not finite.
    """
    check_matrix(weight_OI)
    weight = weight_OI.double()
    scales = (weight.abs().amax(1, keepdim=True) / 127).to(torch.bfloat16)
    steps = torch.where(scales > 0, scales, 1.0).double()
    return pack((weight / steps).round().clamp(-127, 127) + 128, scales, None, bits=8, group=0)


class Int8(Config):
    name: Literal["int8"] = "int8"
    needs_calibration: ClassVar[bool] = False

    def __call__(self, weight_OI: Tensor, inputs: LayerInputs | None = None) -> Counts:
        return round_by_row(weight_OI)
