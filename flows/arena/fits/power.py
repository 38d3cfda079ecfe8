"""A power law that falls to a floor, L = E + A / x^a, fitted by least squares of relative errors, for many sets at once.

With the exponent given the law is a straight line in x^-a, so the search is over the exponent alone: a grid, then golden
sections. Differs from scipy.optimize.curve_fit, which a test holds it to, in that no start is needed and hundreds of sets
are one search.
"""

import numpy as np

from flows.arena.fits.law import CannotFit, Floats, Law
from flows.arena.fits.lines import error_of_line, fit_line
from flows.arena.fits.points import need, need_unequal
from flows.arena.fits.residuals import Resampling, Samples

EXPONENTS = np.geomspace(0.01, 4.0, 48)  # an exponent outside is given as the bound
SECTIONS = 60  # each leaves 0.62 of the bracket: 3e-13 in all
GOLDEN = (5**0.5 - 1) / 2
NAMES = ("E", "A", "a")


def power(values: Floats, x: Floats) -> Floats:
    """E + A / x^a, the parameters on the first axis of `values`."""
    floor, scale, exponent = values[:3]
    return floor + scale * x**-exponent


def inverse_power(values: Floats, loss: Floats) -> Floats:
    """The x at which E + A / x^a is `loss`: infinite for a loss at or below E, which no x reaches."""
    floor, scale, exponent = values[:3]
    above = np.maximum(loss - floor, 0.0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # 0 / 0: flat, and at its floor
        return np.where(above > 0, (scale / above) ** (1 / exponent), np.inf)


def fit_power(x_N: Floats, y_RN: Floats, used_RN: Floats | None = None) -> Floats:
    """E, A and a (R, 3) with the least sum of squared relative errors; E and A are at least 0, a is in EXPONENTS.

    `used` is 1 for a point that counts and 0 for one that does not; all count unless given.
    """
    used = np.ones_like(y_RN) if used_RN is None else used_RN
    logs = np.log(x_N)
    middle = logs.mean()  # powers of x over its middle stay near 1, whatever its unit

    def lines(exponents_R: Floats) -> Floats:
        return np.exp(-exponents_R[:, None] * (logs - middle))

    def error(exponents_R: Floats) -> Floats:
        return error_of_line(lines(exponents_R), y_RN, used)

    best = np.stack([error(np.full(len(y_RN), exponent)) for exponent in EXPONENTS]).argmin(0)
    best = best.clip(1, len(EXPONENTS) - 2)
    low, high = EXPONENTS[best - 1], EXPONENTS[best + 1]
    for _ in range(SECTIONS):
        width = GOLDEN * (high - low)
        in_lower = error(high - width) <= error(low + width)
        low, high = np.where(in_lower, low, high - width), np.where(in_lower, low + width, high)
    exponents = (low + high) / 2
    floor, scale = fit_line(lines(exponents), y_RN, used)
    return np.stack([floor, scale * np.exp(exponents * middle), exponents], axis=1)


def need_power(name: str, x: Floats, losses: Floats) -> None:
    """Raises CannotFit for points that show no power law: fewer than 4 different x, equal losses, losses that do not fall."""
    need(len(NAMES) + 1, **{name: x})
    need_unequal("losses", losses)
    logs = np.log(x)
    if np.sum((logs - logs.mean()) * losses) >= 0:
        raise CannotFit(f"losses do not fall with {name}: there is no decrease to fit")


def fit_law(resampling: Resampling, name: str, x: Floats, losses: Floats, stream: int = 0) -> tuple[Law, Samples]:
    """The power law of sorted points, and the redrawn losses that its interval comes from. Raises CannotFit as need_power
    does."""
    need_power(name, x, losses)
    values = fit_power(x, losses[None])[0]
    fitted = power(values, x)
    residuals = np.log(losses / fitted)
    samples = resampling.samples(fitted, residuals, len(NAMES), stream)
    draws = fit_power(x, samples.measured)
    return Law(f"L = E + A / {name}^a", NAMES, values, draws, power, residuals, resampling.level), samples
