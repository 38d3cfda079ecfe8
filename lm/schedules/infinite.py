"""Infinite: warm-up, cooldown to a constant rate that may last for ever, a last anneal: Ibrahim et al. 2024.

arXiv:2403.08763. A run continued on new data goes on at the constant rate, with no second warm-up. Differs from the paper:
the anneal is straight and may reach 0, where the paper's is exponential.
"""

import math
from typing import Literal

from pydantic import Field

from lm.schedules.trapezoid import Trapezoid


def cooldown(updates: int, cooldown_steps: int, constant_fraction: float) -> float:
    """Half a cosine from 1 to constant_fraction over cooldown_steps updates, and that from then on."""
    left = max(1 - updates / cooldown_steps, 0.0)
    return constant_fraction + (1 - constant_fraction) * (1 - math.cos(math.pi * left)) / 2


class Infinite(Trapezoid):
    name: Literal["infinite"] = "infinite"
    cooldown_steps: int = Field(100, gt=0, description="updates from the peak to the constant rate")
    constant_fraction: float = Field(0.5, gt=0, le=1, description="the constant rate, as a factor")

    def __call__(self, step: int, total_steps: int) -> float:
        after = max(step - int(self.warmup_fraction * total_steps), 0)
        return cooldown(after, self.cooldown_steps, self.constant_fraction) * self.trapezoid(step, total_steps)
