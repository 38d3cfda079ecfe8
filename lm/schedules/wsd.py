"""Warm-up, stable, decay: Hu et al. 2024 (MiniCPM, arXiv:2404.06395). The stable part does not depend on the total.

Differs from the paper: the decay is linear, not exponential, as in Haegele et al. (arXiv:2405.18392).
"""

from typing import Literal

from lm.schedules.trapezoid import Trapezoid


class Wsd(Trapezoid):
    name: Literal["wsd"] = "wsd"

    def __call__(self, step: int, total_steps: int) -> float:
        return self.trapezoid(step, total_steps)
