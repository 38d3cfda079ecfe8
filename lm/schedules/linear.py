"""Straight down after a linear warm-up: the best of the fixed decays in Defazio et al. 2023 (arXiv:2310.07831)."""

from typing import Literal

from pydantic import Field

from lm.config import Config


def linear(step: int, total_steps: int, warmup_fraction: float, final_fraction: float) -> float:
    """The factor of a step, counted from 0: up to 1 by equal parts, then straight down to final_fraction at total_steps."""
    warmup_steps = int(warmup_fraction * total_steps)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    left = (total_steps - step) / max(total_steps - warmup_steps, 1)
    return final_fraction + (1 - final_fraction) * left


class Linear(Config):
    name: Literal["linear"] = "linear"
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description="of all steps")
    final_fraction: float = Field(0.0, ge=0, le=1, description="factor at the end; 0 is best, arXiv:2502.15938")

    def __call__(self, step: int, total_steps: int) -> float:
        return linear(step, total_steps, self.warmup_fraction, self.final_fraction)
