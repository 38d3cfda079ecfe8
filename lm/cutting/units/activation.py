"""How large a head or a channel is while the model works: Minitron, Muralidharan et al. 2024 (arXiv:2407.14679), section
2.2."""

from typing import ClassVar, Literal

from torch import Tensor

from lm.calibration import LayerInputs
from lm.config import Config


class Activation(Config):
    """The mean, over tokens, of the norm of what the unit gives. Differs from the paper: of a gated channel it is what the gate
    lets through, not the product before it."""

    name: Literal["activation"] = "activation"
    needs_inputs: ClassVar[bool] = True

    def __call__(self, weight_OI: Tensor, inputs: LayerInputs | None, width: int) -> list[float]:
        """Raises ValueError without inputs."""
        if inputs is None:
            raise ValueError("activation needs the inputs that the matrix has seen")
        return inputs.rows_NI.double().unflatten(1, (-1, width)).norm(dim=2).mean(0).tolist()
