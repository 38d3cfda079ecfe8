"""What a fit gives: a law's parameters, what it predicts, and how sure both are."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


class CannotFit(ValueError):
    """Points that a law cannot be fitted to; the message is one line."""


def between(draws: Floats, level: float) -> tuple[Floats, Floats]:
    """Bounds of the middle `level` of the draws, over the first axis; each is one of the draws, which may be infinite."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0, method="inverted_cdf")
    return low, high


@dataclass(frozen=True, eq=False)
class Law:
    """A law fitted to N points: P parameters, R draws of them by bootstrap."""

    formula: str
    names: tuple[str, ...]  # P of them
    values: Floats  # (P,)
    draws: Floats  # (R, P)
    curve: Callable[
        ..., Floats
    ]  # (values with the parameters on the first axis, columns to predict for) -> predictions
    residuals: Floats  # (N,), log of measured over fitted
    level: float

    def __getitem__(self, name: str) -> float:
        """Value of a parameter."""
        return float(self.values[self.names.index(name)])

    def interval(self, name: str) -> tuple[float, float]:
        """Interval of a parameter at the law's level; a bound may be infinite."""
        low, high = between(self.draws[:, self.names.index(name)], self.level)
        return float(low), float(high)

    def predict(self, *x: ArrayLike) -> Floats:
        """Predictions of the law, shaped as the columns that they are for."""
        return self.curve(self.values, *(np.asarray(column, dtype=float) for column in x))

    def band(self, *x: ArrayLike) -> tuple[Floats, Floats]:
        """Interval of each prediction: of the law itself, not of one more run, which has noise of its own."""
        shape = np.broadcast_shapes(*(np.shape(column) for column in x))
        columns = [np.broadcast_to(np.asarray(column, dtype=float), shape).ravel() for column in x]
        low, high = between(self.curve(self.draws.T[:, :, None], *columns), self.level)
        return low.reshape(shape), high.reshape(shape)

    @property
    def residual(self) -> float:
        """Root mean square of log(measured / fitted): about the relative error of a run against the law."""
        return float(np.sqrt(np.mean(self.residuals**2)))

    def report(self) -> dict[str, Any]:
        """The law as JSON: numbers finite, or None where a bound is infinite."""
        return {
            "formula": self.formula,
            "parameters": {
                name: {"value": finite(self[name]), "interval": [finite(bound) for bound in self.interval(name)]}
                for name in self.names
            },
            "level": self.level,
            "points": len(self.residuals),
            "residual": self.residual,
        }


def finite(value: float) -> float | None:
    """A number that JSON can hold: None in place of an infinite one."""
    return float(value) if isfinite(value) else None
