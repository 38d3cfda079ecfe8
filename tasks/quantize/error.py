"""What of a matrix's outputs is lost with its weights."""

from torch import Tensor

from lm.calibration import LayerInputs


def row_errors(weight_OI: Tensor, packed_OI: Tensor, inputs: LayerInputs) -> Tensor:
    """Mean over the inputs of (packed x - weight x)^2 for each row, in float64, (O,)."""
    lost_OI = packed_OI.double() - weight_OI.double()
    return ((lost_OI @ inputs.moments_II) * lost_OI).sum(1)


def output_error(weight_OI: Tensor, packed_OI: Tensor, inputs: LayerInputs) -> float:
    """The mean over the inputs of |packed x - weight x|^2. Raises ValueError when an input is not finite."""
    inputs.check()
    return float(row_errors(weight_OI, packed_OI, inputs).sum())
