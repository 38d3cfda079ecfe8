"""The smallest weights go: Han et al. 2015 (arXiv:1506.02626).

Differs from the paper: once and without retraining, as in Jaiswal et al. 2023 (arXiv:2306.03805), who have one threshold for
all matrices, which `prune.sparsities` has; here each matrix has its own.
"""

from typing import ClassVar, Literal

from torch import Tensor

from lm.calibration import LayerInputs
from tasks.prune.weights.base import PruneMethod, prune_mask


class Magnitude(PruneMethod):
    """Compared among all of a matrix."""

    name: Literal["magnitude"] = "magnitude"
    needs_inputs: ClassVar[bool] = False

    def __call__(self, weight_OI: Tensor, inputs: LayerInputs | None) -> Tensor:
        return weight_OI.masked_fill(prune_mask(weight_OI.abs(), self.share, self.of, by_row=False), 0)
