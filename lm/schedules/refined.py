"""Refined: a schedule made of the gradient norms of an earlier run: Defazio et al. 2023 (arXiv:2310.07831, algorithm 1).

`python -m lm.schedules.norms data/pretrain/curves.jsonl` prints the norms of a run, to be given as `norms`. Constant norms give
a straight line to 0. Differs from the paper: a run's end is one point more, whose factor is 0, so that no update is made
with it; there may be a warm-up before it all; and for Adam the paper takes l1 norms, where these, as runs log them, are l2.
"""

from functools import lru_cache
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from lm.config import Config


def smoothed(norms: list[float], share: float) -> np.ndarray:
    """Median of each norm and its neighbours, an odd number that covers this share of all; those beyond the first are the
    first, those beyond the last a reflection, as in the authors' code."""
    half = int(share * len(norms)) // 2
    wide = np.pad(np.pad(norms, (half, 0), mode="edge"), (0, half), mode="reflect")
    return np.median(np.lib.stride_tricks.sliding_window_view(wide, 2 * half + 1), axis=1)


def refined(norms: np.ndarray, exponent: float) -> np.ndarray:
    """Factors of so many steps: w_t times the sum of all later w, for w = norm^-exponent, over the largest; 0 of the last."""
    weights = norms**-exponent
    later = weights.sum() - np.cumsum(weights)
    found = weights * later.clip(min=0)
    found[-1] = 0.0
    return found / max(found.max(), np.finfo(float).tiny)


@lru_cache(maxsize=8)
def factors(
    norms: tuple[float, ...], smoothing: float, exponent: float, first: int, total_steps: int
) -> tuple[float, ...]:
    """Factors of the steps from `first` to total_steps of a run whose gradient norms went as these, at equal distances."""
    places = np.arange(first, total_steps + 1) / max(total_steps, 1) * (len(norms) - 1)
    there = np.interp(places, np.arange(len(norms)), smoothed(list(norms), smoothing))
    return tuple(refined(there, exponent).tolist())


class Refined(Config):
    name: Literal["refined"] = "refined"
    warmup_fraction: float = Field(
        0.0, ge=0, lt=1, description="of all steps; large first norms are a warm-up themselves"
    )
    final_fraction: float = Field(0.0, ge=0, le=1, description="factor at the end")
    smoothing: float = Field(0.1, ge=0, lt=1, description="share of the run over which a median of norms is taken")
    exponent: float = Field(
        2.0, gt=0, description="a step weighs the norm to minus this: 2 in the paper's algorithm for SGD"
    )
    norms: list[float] = Field([1.0], min_length=1, description="of an earlier run's gradients, at equal distances")

    @field_validator("norms")
    @classmethod
    def _positive(cls, norms: list[float]) -> list[float]:
        if min(norms) <= 0:
            raise ValueError(f"norms must be positive, and one is {min(norms)}")
        return norms

    def __call__(self, step: int, total_steps: int) -> float:
        warmup_steps = int(self.warmup_fraction * total_steps)
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        after = factors(tuple(self.norms), self.smoothing, self.exponent, warmup_steps, total_steps)
        return self.final_fraction + (1 - self.final_fraction) * after[step - warmup_steps]
