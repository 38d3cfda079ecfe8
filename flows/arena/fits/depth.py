"""Depth or width: whether, at equal parameters, a deeper model has the lower loss, and which depth has the lowest.

Bello et al. 2021 (arXiv:2103.07579) scale depth where overfitting can happen and width otherwise. Fitted here, at equal
parameters: log L = u + s x + k x^2 with x = log(depth / middle depth) and a level u for each size, so that L goes as depth^s
about the middle and the lowest loss is where the parabola turns. Differs from the paper: it compares chosen shapes of an
image model over epochs; here one fit is made of runs of few epochs, one of runs of many, and the rule is read off the two
exponents.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from flows.arena.fits.law import CannotFit, Floats, Law
from flows.arena.fits.points import columns, need, need_runs, need_unequal
from flows.arena.fits.residuals import Resampling


def relative_loss(values: Floats, depth: Floats) -> Floats:
    """Loss at a depth over that at the middle depth, at equal parameters: x = log(depth / middle), exp(exponent x + bend
    x^2)."""
    exponent, bend, _, middle = values[:4]
    x = np.log(depth / middle)
    return np.exp(exponent * x + bend * x**2)


def turning_point(exponent: Floats, bend: Floats, middle: float) -> Floats:
    """Depth of the lowest loss; 0 or infinity, the way that the loss falls, where the parabola does not turn upwards."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(bend > 0, middle * np.exp(-exponent / (2 * bend)), np.where(exponent < 0, np.inf, 0.0))


def sizes_of(parameters: Floats, within: float) -> NDArray[np.intp]:
    """Number of the size (N,) that each run is of. A new size begins where a count is larger than the next smaller one by more
    than the fraction `within`."""
    counts, place = np.unique(parameters, return_inverse=True)
    starts = np.diff(counts) > within * counts[:-1]
    return np.concatenate([[0], np.cumsum(starts)])[place]


@dataclass(frozen=True, eq=False)
class DepthLaw(Law):
    """Loss over depth at equal parameters, relative to the middle depth: the geometric mean of the depths that ran."""

    @property
    def prefer(self) -> str:
        """`deeper` or `wider` where the interval of the exponent leaves out 0, else `no difference`."""
        low, high = self.interval("exponent")
        return "deeper" if high < 0 else "wider" if low > 0 else "no difference"

    def report(self) -> dict[str, Any]:
        """The law as JSON, and what it prefers."""
        return super().report() | {"prefer": self.prefer}


class Depth(Resampling):
    name: Literal["depth"] = "depth"
    same_size: float = Field(
        0.1, ge=0, lt=1, description="parameters that differ by at most this fraction are one size"
    )

    def __call__(self, depths: ArrayLike, parameters: ArrayLike, losses: ArrayLike) -> DepthLaw:
        """Law of runs of one or several sizes, at several depths each; predicts the loss of a depth over that of the middle
        one.

        Raises CannotFit for fewer than 3 different depths, equal losses, sizes of one depth each, and too few runs for the
        sizes.
        """
        depth, count, loss = columns(depths=depths, parameters=parameters, losses=losses)
        need(3, depths=depth)
        need_unequal("losses", loss)
        sizes = sizes_of(count, self.same_size)
        middle = float(np.exp(np.log(np.unique(depth)).mean()))
        x = np.log(depth / middle)
        design = np.column_stack([x, x**2, sizes[:, None] == np.unique(sizes)])
        need_runs(design.shape[1] + 1, depth)
        if np.linalg.matrix_rank(design) < design.shape[1]:
            raise CannotFit("depths and parameters change together: needs several depths at equal parameters")
        solve = np.linalg.pinv(design)

        def law_of(losses_RN: Floats) -> Floats:
            exponent, bend = (np.log(losses_RN) @ solve[:2].T).T
            return np.stack([exponent, bend, turning_point(exponent, bend, middle), np.full_like(bend, middle)], axis=1)

        fitted = np.exp(design @ (solve @ np.log(loss)))
        residuals = np.log(loss / fitted)
        return DepthLaw(
            "L(depth) / L(middle) = exp(exponent x + bend x^2), x = log(depth / middle)",
            ("exponent", "bend", "optimum", "middle"),
            law_of(loss[None])[0],
            law_of(self.samples(fitted, residuals, design.shape[1]).measured),
            relative_loss,
            residuals,
            self.level,
        )
