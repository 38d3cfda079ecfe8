"""The shape that several schedules have or multiply by: up, level, down."""

from pydantic import Field, model_validator

from lm.config import Config


def trapezoid(
    step: int, total_steps: int, warmup_fraction: float, decay_fraction: float, final_fraction: float
) -> float:
    """The factor of a step, counted from 0: up to 1 by equal parts, 1, then straight down to final_fraction.

    0 would stand at step -1 and final_fraction stands at step total_steps, so that no update is made with a factor of 0.
    """
    warmup_steps, decay_steps = int(warmup_fraction * total_steps), max(round(decay_fraction * total_steps), 1)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    left = total_steps - step
    return 1.0 if left >= decay_steps else final_fraction + (1 - final_fraction) * left / decay_steps


class Trapezoid(Config):
    """The parameters of a schedule that ends in such a decay."""

    warmup_fraction: float = Field(0.02, ge=0, lt=1, description="of all steps")
    decay_fraction: float = Field(0.2, ge=0, le=1, description="of all steps")
    final_fraction: float = Field(0.0, ge=0, le=1, description="what is left at the end of what the decay began with")

    @model_validator(mode="after")
    def _fits(self) -> "Trapezoid":
        if self.warmup_fraction + self.decay_fraction > 1:
            raise ValueError("warmup_fraction + decay_fraction must be at most 1")
        return self

    def trapezoid(self, step: int, total_steps: int) -> float:
        return trapezoid(step, total_steps, self.warmup_fraction, self.decay_fraction, self.final_fraction)
