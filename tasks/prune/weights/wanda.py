"""The weights go whose product with the norm of their input is smallest: Wanda, Sun et al. 2023 (arXiv:2306.11695), equation
1."""

from typing import Literal

from torch import Tensor

from lm.calibration import LayerInputs
from tasks.prune.weights.base import PruneMethod, prune_mask


class Wanda(PruneMethod):
    """Compared within a row, which is an output."""

    name: Literal["wanda"] = "wanda"

    def __call__(self, weight_OI: Tensor, inputs: LayerInputs | None) -> Tensor:
        """Raises ValueError without inputs."""
        if inputs is None:
            raise ValueError("wanda needs the inputs that the matrix has seen")
        scores_OI = weight_OI.double().abs() * inputs.rows_NI.double().norm(dim=0)
        return weight_OI.masked_fill(prune_mask(scores_OI, self.share, self.of, by_row=True), 0)
