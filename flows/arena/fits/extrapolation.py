"""Extrapolation of a learning curve: Vilares et al. 2017 (Modeling of learning curves, arXiv:2402.02515): power laws fitted
to longer and longer beginnings of the curve, until two that follow each other are close.

Differs from the paper: losses fall to a floor, where it has accuracies that rise to one; its prediction level and anchors,
which guard the first few fits, are left out, since the beginning of the curve is; closeness is of the forecasts at the
target, not of the asymptotes; and the forecast has an interval, for one measurement more with the noise of the curve. A
curve whose rate decays at the end is no power law: forecast it from what came before the decay, for a run whose rate has not
decayed either.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from flows.arena.fits.law import Floats, Law, between
from flows.arena.fits.points import columns
from flows.arena.fits.power import NAMES, fit_law, fit_power, power
from flows.arena.fits.residuals import Resampling

TRENDS = 32  # beginnings that are fitted, at the most, spread evenly over the points


@dataclass(frozen=True, eq=False)
class Forecast(Law):
    """Law of a curve, and the loss to come at `target_tokens`."""

    target_tokens: float
    loss: float
    low: float  # interval of a measurement at the target, at the law's level
    high: float
    settled_tokens: float | None  # from here on no forecast moved by more than the tolerance; None: the last one did

    def report(self) -> dict[str, Any]:
        """The law as JSON, and its forecast."""
        return super().report() | {
            "target_tokens": self.target_tokens,
            "loss": self.loss,
            "interval": [self.low, self.high],
            "settled_tokens": self.settled_tokens,
        }


def forecasts(tokens: Floats, losses: Floats, target_tokens: float) -> tuple[Floats, Floats]:
    """Tokens (K,) at which beginnings of a sorted curve end, and what each forecasts (K,) for the target; the first beginning
    has as many different tokens as a law needs, the last is the whole curve."""
    first = int(np.searchsorted(np.cumsum(np.diff(tokens, prepend=0) > 0), len(NAMES) + 1)) + 1
    lengths = np.unique(np.linspace(first, len(tokens), TRENDS).astype(int))
    used = (np.arange(len(tokens)) < lengths[:, None]).astype(float)
    trends = fit_power(tokens, np.broadcast_to(losses, used.shape), used)
    return tokens[lengths - 1], power(trends.T, np.asarray(target_tokens))


def settled(tokens: Floats, forecast: Floats, tolerance: float) -> float | None:
    """Tokens from which on no forecast differs from the one before it by more than `tolerance`, as a fraction; None where
    even the last one does, or where there is only one."""
    moved = np.flatnonzero(np.abs(forecast[1:] / forecast[:-1] - 1) > tolerance)
    start = int(moved[-1]) + 1 if len(moved) else 0
    return float(tokens[start]) if start < len(tokens) - 1 else None


class Extrapolation(Resampling):
    name: Literal["extrapolation"] = "extrapolation"
    skip_fraction: float = Field(
        0.1, ge=0, lt=1, description="of the tokens measured, from the beginning: warm-up is no power law"
    )
    tolerance: float = Field(0.01, gt=0, description="relative change of forecasts that are called close")

    def __call__(self, tokens: ArrayLike, losses: ArrayLike, target_tokens: float) -> Forecast:
        """Forecast from points of one curve; predicts the loss of `tokens`.

        Raises CannotFit for fewer than 4 different tokens past the skipped ones, equal losses, and losses that do not fall.
        """
        seen, loss = columns(tokens=tokens, losses=losses)
        ((target,),) = columns(target_tokens=[target_tokens])
        kept = seen >= self.skip_fraction * seen.max(initial=0.0)
        law, samples = fit_law(self, "tokens", seen[kept], loss[kept])
        low, high = between(power(law.draws.T, target) * samples.error, self.level)
        ends, forecast = forecasts(seen[kept], loss[kept], target)
        return Forecast(
            **vars(law),
            target_tokens=float(target),
            loss=float(law.predict(target)),
            low=float(low),
            high=float(high),
            settled_tokens=settled(ends, forecast, self.tolerance),
        )
