"""How large the weights are that read a head or a channel: after Li et al. 2017 (arXiv:1608.08710), section 3."""

from typing import ClassVar, Literal

from torch import Tensor

from lm.calibration import LayerInputs
from lm.config import Config


class Magnitude(Config):
    """The norm of the columns that read the unit. Differs from the paper: the Euclidean norm of what reads the unit, where it
    takes the sum of absolute values of what makes it."""

    name: Literal["magnitude"] = "magnitude"
    needs_inputs: ClassVar[bool] = False

    def __call__(self, weight_OI: Tensor, inputs: LayerInputs | None, width: int) -> list[float]:
        return weight_OI.double().unflatten(1, (-1, width)).square().sum((0, 2)).sqrt().tolist()
