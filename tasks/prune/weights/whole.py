"""No single weight goes."""

from typing import ClassVar, Literal

from torch import Tensor

from lm.calibration import LayerInputs
from lm.config import Config


class Whole(Config):
    name: Literal["whole"] = "whole"
    needs_inputs: ClassVar[bool] = False

    def __call__(self, weight_OI: Tensor, inputs: LayerInputs | None) -> Tensor:
        return weight_OI
