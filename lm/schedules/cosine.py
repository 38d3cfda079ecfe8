"""Cosine decay after a linear warm-up: Loshchilov & Hutter 2017 (arXiv:1608.03983), one cycle without restarts."""

import math
from typing import Literal

from pydantic import Field

from lm.config import Config


def cosine(step: int, total_steps: int, warmup_fraction: float, final_fraction: float) -> float:
    """The factor of a step, counted from 0: up to 1 by equal parts, then down half a cosine to final_fraction.

    0 would stand at step -1 and final_fraction stands at step total_steps, so that no update is made with a factor of 0.
    """
    warmup_steps = int(warmup_fraction * total_steps)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return final_fraction + (1 - final_fraction) * (1 + math.cos(math.pi * progress)) / 2


class Cosine(Config):
    name: Literal["cosine"] = "cosine"
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description="of all steps")
    final_fraction: float = Field(
        0.1, ge=0, le=1, description="factor at the end; 0.1 as in Chinchilla, arXiv:2203.15556"
    )

    def __call__(self, step: int, total_steps: int) -> float:
        return cosine(step, total_steps, self.warmup_fraction, self.final_fraction)
