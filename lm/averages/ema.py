"""Exponential moving average of the weights, with no weight on where it began (Morales-Brotons et al. 2024).

arXiv:2411.18704.
"""

from typing import Literal

from pydantic import Field

from lm.config import Config


class Ema(Config):
    name: Literal["ema"] = "ema"
    decay: float = Field(0.98, ge=0, lt=1, description="what an older step keeps of its weight, per step")

    def __call__(self, step: int, total_steps: int) -> float:
        """(1 - decay) / (1 - decay^n) after n steps: all shares sum to 1 from the first step on, as Adam's correction."""
        return (1 - self.decay) / (1 - self.decay ** (step + 1))
