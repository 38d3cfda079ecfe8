"""One cycle: a long rise to a peak several times the usual rate, a fall as long, a short anneal: Smith & Topin 2019.

"Super-convergence", arXiv:1708.07120. Choose a peak 3 to 10 times that of another schedule and less weight decay. Differs
from the paper: momentum stays as it is; it falls and rises against the rate there.
"""

from typing import Literal

from pydantic import Field

from lm.config import Config


def one_cycle(step: int, total_steps: int, rise: float, initial: float, anneal: float, final: float) -> float:
    """The factor of a step, counted from 0: `initial` up to 1 at the share `rise` of the steps, straight down to `initial`
    where the last share `anneal` of what is left begins, and from there to final x initial at total_steps."""
    peak = int(rise * total_steps)
    if step < peak:
        return initial + (1 - initial) * (step + 1) / (peak + 1)
    low = min(peak + round((1 - anneal) * (total_steps - peak)), total_steps - 1)
    if step <= low:
        return 1 - (1 - initial) * (step - peak) / max(low - peak, 1)
    return initial * (1 - (1 - final) * (step - low) / (total_steps - low))


class OneCycle(Config):
    name: Literal["one_cycle"] = "one_cycle"
    warmup_fraction: float = Field(0.45, ge=0, lt=1, description="of all steps: the rise")
    initial_fraction: float = Field(0.1, ge=0, le=1, description="factor before the rise and after the fall")
    anneal_fraction: float = Field(0.2, gt=0, lt=1, description="of the steps after the peak: the last anneal")
    final_fraction: float = Field(0.01, ge=0, le=1, description="of initial_fraction, at the end")

    def __call__(self, step: int, total_steps: int) -> float:
        return one_cycle(
            step,
            total_steps,
            self.warmup_fraction,
            self.initial_fraction,
            self.anneal_fraction,
            self.final_fraction,
        )
