"""One mask ratio a step, which rises over the run from easy to difficult: Ma et al. 2023, LMD (arXiv:2312.07971).

Differs from the paper: tokens of text are masked in place of patches of an autoencoder's latents; its third schedule, in
pieces, is left out. A model that was never trained above `end` has not learned to begin a text from nothing: end 1 is for those
that are to write.
"""

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tasks.pretrain.ratios.base import LEAST, Ratio


class Rising(Ratio):
    name: Literal["rising"] = "rising"
    start: float = Field(0.15, ge=LEAST, le=1, description="ratio of the first step")
    end: float = Field(0.75, ge=LEAST, le=1, description="ratio of the last step")
    course: Literal["linear", "cosine"] = Field("linear", description="cosine: slowly first and last, as half a wave")
    drawn = False
    by_run = True

    @model_validator(mode="after")
    def _rises(self) -> "Rising":
        if self.end < self.start:
            raise ValueError(f"the ratio rises: end {self.end:g} is below start {self.start:g}")
        return self

    def __call__(self, points_R: Tensor, progress: float) -> Tensor:
        share = progress if self.course == "linear" else (1 - math.cos(math.pi * progress)) / 2
        return torch.full_like(points_R, self.start + (self.end - self.start) * share)
