"""How all intervals of this room are made: a bootstrap over residuals (Efron 1979; Davison and Hinkley 1997, section 6.3)."""

from typing import NamedTuple

import numpy as np
from pydantic import Field
from scipy.special import ndtri, stdtrit

from flows.arena.fits.law import Floats
from lm.config import Config


class Samples(NamedTuple):
    """R sets of measurements that could have come instead, and the error that one more measurement could have beside each."""

    measured: Floats  # (R, N)
    error: Floats  # (R,), a factor


def widening(points: int, parameters: int, level: float) -> float:
    """Factor on the residuals of a fit of so many parameters, so that percentiles of a law linear in them are Student's
    interval.

    sqrt(N / (N - P)) undoes that a fit comes closer to its own points than to others; the quantile of t over that of the normal
    makes up for an error that was estimated from N - P degrees of freedom.
    """
    free, tail = points - parameters, (1 + level) / 2
    return float(np.sqrt(points / free) * stdtrit(free, tail) / ndtri(tail))


class Resampling(Config):
    """How the intervals of a fit are made."""

    level: float = Field(0.95, ge=0.5, lt=1, description="share of intervals that hold the true value")
    resamples: int = Field(400, ge=100, description="fits to redrawn residuals; the interval's bounds are two of them")
    seed: int = Field(0, ge=0)

    def samples(self, fitted: Floats, residuals: Floats, parameters: int, stream: int = 0) -> Samples:
        """Redrawn measurements of N points: what was fitted (N,), times exp of residuals (N,) drawn with replacement and
        widened.

        `parameters` is how many the law has; fits that belong to one result take another `stream` of random numbers each.
        """
        draw = np.random.default_rng([self.seed, stream])
        errors = (residuals - residuals.mean()) * widening(len(fitted), parameters, self.level)
        picked = errors[draw.integers(len(fitted), size=(self.resamples, len(fitted) + 1))]
        return Samples(fitted * np.exp(picked[:, :-1]), np.exp(picked[:, -1]))
