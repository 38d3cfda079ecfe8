"""Mask ratios whose logit is normal: the density of the ratio of signal to noise is chosen, Yao et al. 2024, FasterDiT
(arXiv:2410.10356), section 3.

Of a sequence masked at ratio t the signal is 1 - t and the noise t, so that the logarithm of their ratio is normal, with mean
-`mean` and deviation `deviation`.
Differs from the paper: it moves the density of images by the scale of the data, beside a logit-normal law of times, and tokens
have no scale; its second part, a loss of the velocity's direction, has no counterpart here. As there, no weight corrects for
the law: the loss is then no bound on the likelihood.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from tasks.pretrain.ratios.base import LEAST, Ratio


class LogitNormal(Ratio):
    name: Literal["logit_normal"] = "logit_normal"
    mean: float = Field(0.0, description="of the ratio's logit: 0 is a median ratio of a half, more masks more")
    deviation: float = Field(
        1.0, gt=0, description="of the ratio's logit; small ones leave few tokens or all masked seldom"
    )

    def __call__(self, points_R: Tensor, progress: float) -> Tensor:
        normal_R = math.sqrt(2) * torch.erfinv(2 * points_R - 1)  # a point of 0 is -inf, whose sigmoid is 0
        return torch.sigmoid(self.mean + self.deviation * normal_R).clamp(LEAST, 1)
