"""Latest weight averaging: the mean of the last checkpoints, equally far apart (Kaddour 2022, arXiv:2209.14981).

With steps far apart and a high rate kept to the end it is Sanyal et al. 2023 (early averaging, arXiv:2306.03241). Differs
from both: they keep the checkpoints and average whenever asked; here the mean at the end is all that is made, so one running
copy stands for the stored ones.
"""

from typing import Literal

from pydantic import Field

from lm.config import Config


class Lawa(Config):
    name: Literal["lawa"] = "lawa"
    checkpoints: int = Field(5, gt=0, description="how many, the last weights included; fewer in a short run")
    every: int = Field(10, gt=0, description="steps between two of them")

    def __call__(self, step: int, total_steps: int) -> float:
        """1, 1/2, 1/3, ... at the steps that count: the mean of those so far."""
        later, between = divmod(total_steps - 1 - step, self.every)
        if between or later >= self.checkpoints:
            return 0.0
        first = min(self.checkpoints, (total_steps - 1) // self.every + 1)
        return 1 / (first - later)
