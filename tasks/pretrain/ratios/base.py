"""What every law of mask ratios is."""

from typing import ClassVar

from torch import Tensor

from lm.config import Config

# The least ratio that is drawn: a row of which nothing is masked teaches nothing, and weights are 1 / ratio. As LLaDA and MDLM
LEAST = 1e-3


class Ratio(Config):
    """A law of the share of a sequence's tokens that is masked. drawn: whether sequences of a step have ratios of their own.
    by_run: whether it depends on how long the run will be."""

    drawn: ClassVar[bool] = True
    by_run: ClassVar[bool] = False

    def __call__(self, points_R: Tensor, progress: float) -> Tensor:
        """ratios_R, fp64, from LEAST to 1: the quantiles of the law at these points, fp64 in [0, 1). progress: of the run, 0 at
        its first step and 1 at its last."""
        raise NotImplementedError
