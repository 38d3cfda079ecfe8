"""Power: a rate that follows step^-0.51 whatever the total, and a short decay: Shen et al. 2024 (arXiv:2408.13359).

Differs from the paper: the peak ends at `knee_steps`, where the paper has batch x min(peak, a x tokens^b), so that another
batch size needs another knee; and the last decay is straight, not exponential.
"""

from typing import Literal

from pydantic import Field

from lm.schedules.trapezoid import Trapezoid


def power(updates: int, knee: int, exponent: float) -> float:
    """min(1, (updates / knee)^-exponent), 1 for no updates."""
    return (max(updates, knee) / knee) ** -exponent


class Power(Trapezoid):
    name: Literal["power"] = "power"
    knee_steps: int = Field(20, gt=0, description="updates after the warm-up at the peak; then the rate falls")
    exponent: float = Field(0.51, ge=0, description="0.51 is what the paper fits")

    def __call__(self, step: int, total_steps: int) -> float:
        after = max(step - int(self.warmup_fraction * total_steps), 0)
        return power(after, self.knee_steps, self.exponent) * self.trapezoid(step, total_steps)
