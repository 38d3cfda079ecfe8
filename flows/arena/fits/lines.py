"""A straight line with no negative part, fitted to many sets of measurements at once."""

import numpy as np

from flows.arena.fits.law import Floats


def fit_line(x_RN: Floats, y_RN: Floats, used_RN: Floats) -> tuple[Floats, Floats]:
    """Intercept and slope (R,) of the line with the least sum of squared relative errors (line / y - 1)^2, neither below 0.

    `used` is 1 for a point that counts and 0 for one that does not. Sums are of differences from weighted means: x may be
    nearly constant, as 1 / tokens^0.01 is.
    """
    weights = used_RN / y_RN**2
    total = weights.sum(-1)
    mean_x, mean_y = (weights * x_RN).sum(-1) / total, (weights * y_RN).sum(-1) / total
    apart = x_RN - mean_x[:, None]
    slope = (weights * apart * (y_RN - mean_y[:, None])).sum(-1) / (weights * apart**2).sum(-1)
    slope = np.maximum(slope, 0.0)
    intercept = mean_y - slope * mean_x
    through_zero = (weights * x_RN * y_RN).sum(-1) / (weights * x_RN**2).sum(-1)
    return np.maximum(intercept, 0.0), np.where(intercept < 0, through_zero, slope)


def error_of_line(x_RN: Floats, y_RN: Floats, used_RN: Floats) -> Floats:
    """Sum of squared relative errors (R,) that the best line leaves."""
    intercept, slope = fit_line(x_RN, y_RN, used_RN)
    relative = (intercept[:, None] + slope[:, None] * x_RN) / y_RN - 1
    return (used_RN * relative**2).sum(-1)
