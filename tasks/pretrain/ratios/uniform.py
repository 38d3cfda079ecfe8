"""Every mask ratio as often as any other, with which the loss is the bound on the likelihood: Sahoo et al. 2024, MDLM
(arXiv:2406.07524), section 3; Nie et al. 2025, LLaDA (arXiv:2502.09992), equation 3."""

from typing import Literal

from torch import Tensor

from tasks.pretrain.ratios.base import LEAST, Ratio


class Uniform(Ratio):
    name: Literal["uniform"] = "uniform"

    def __call__(self, points_R: Tensor, progress: float) -> Tensor:
        return LEAST + (1 - LEAST) * points_R
