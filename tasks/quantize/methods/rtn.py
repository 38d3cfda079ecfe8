"""Round to nearest with a scale and a minimum for every group of columns, in 4 bits as in llama.cpp's Q4_1."""

from typing import ClassVar, Literal

from torch import Tensor

from lm.calibration import LayerInputs
from lm.quantized.counts import Counts
from tasks.quantize.grid import Grid, round_by_group


class Rtn(Grid):
    name: Literal["rtn"] = "rtn"
    needs_calibration: ClassVar[bool] = False

    def __call__(self, weight_OI: Tensor, inputs: LayerInputs | None = None) -> Counts:
        return round_by_group(weight_OI, self.bits, self.group, self.symmetric)
