"""Warm-up, stable, decay: Hu et al. 2024 (MiniCPM, arXiv:2404.06395). The stable part does not depend on the total."""

from typing import Literal

from pydantic import Field, model_validator

from lm.config import Config


def wsd(step: int, total_steps: int, warmup_fraction: float, decay_fraction: float, final_fraction: float) -> float:
    """The factor of a step, counted from 0: up to 1 by equal parts, 1, then straight down to final_fraction.

    0 would stand at step -1 and final_fraction stands at step total_steps, so that no update is made with a factor of 0.
    Differs from the paper: the decay is linear, not exponential, as in Haegele et al. (arXiv:2405.18392).
    """
    warmup_steps, decay_steps = int(warmup_fraction * total_steps), max(round(decay_fraction * total_steps), 1)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    left = total_steps - step
    return 1.0 if left >= decay_steps else final_fraction + (1 - final_fraction) * left / decay_steps


class Wsd(Config):
    name: Literal["wsd"] = "wsd"
    warmup_fraction: float = Field(0.02, ge=0, lt=1, description="of all steps")
    decay_fraction: float = Field(0.2, ge=0, le=1, description="of all steps")
    final_fraction: float = Field(0.0, ge=0, le=1, description="factor at the end")

    @model_validator(mode="after")
    def _fits(self) -> "Wsd":
        if self.warmup_fraction + self.decay_fraction > 1:
            raise ValueError("warmup_fraction + decay_fraction must be at most 1")
        return self

    def __call__(self, step: int, total_steps: int) -> float:
        return wsd(step, total_steps, self.warmup_fraction, self.decay_fraction, self.final_fraction)
