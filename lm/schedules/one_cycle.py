"""One cycle: a long rise to a peak several times the usual rate, a fall as long, a short anneal: Smith & Topin 2019.

"Super-convergence", arXiv:1708.07120. Choose a peak 3 to 10 times that of another schedule and less weight decay. With
`peak_momentum` the optimizer's first memory falls as the rate rises and rises as it falls, as there and in Smith 2018
(arXiv:1803.09820, section 4.3), who has it go from 0.95 to 0.85 and back; without it, it stays as it is.
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


def against(factor: float, initial: float, own: float, peak: float) -> float:
    """The momentum where the rate has this factor: `own` at `initial` and below, `peak` at 1, in between by equal parts."""
    share = (factor - initial) / (1 - initial) if initial < 1 else 0.0
    return own - (own - peak) * max(share, 0.0)


class OneCycle(Config):
    name: Literal["one_cycle"] = "one_cycle"
    warmup_fraction: float = Field(0.45, ge=0, lt=1, description="of all steps: the rise")
    initial_fraction: float = Field(0.1, ge=0, le=1, description="factor before the rise and after the fall")
    anneal_fraction: float = Field(0.2, gt=0, lt=1, description="of the steps after the peak: the last anneal")
    final_fraction: float = Field(0.01, ge=0, le=1, description="of initial_fraction, at the end")
    peak_momentum: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="beta1 or momentum at the peak; the optimizer's own is that at the ends; null: always its own",
    )

    def momentum(self, step: int, total_steps: int, own: float) -> float:
        """The optimizer's momentum at a step, given its own."""
        if self.peak_momentum is None:
            return own
        return against(self(step, total_steps), self.initial_fraction, own, self.peak_momentum)

    def __call__(self, step: int, total_steps: int) -> float:
        return one_cycle(
            step,
            total_steps,
            self.warmup_fraction,
            self.initial_fraction,
            self.anneal_fraction,
            self.final_fraction,
        )
