"""Minimum of a sum of Huber losses, for many sets of measurements or from many starts at once.

A Levenberg-Marquardt search: a Newton step of the Huber loss, whose curvature is 1 within delta and 0 beyond, damped by the
step of least squares reweighted to it, which always goes down. 400 sets of 25 runs take 0.1 s of a core, and 3.4 s one by one
in scipy.optimize.least_squares, which a test holds it to.
"""

from collections.abc import Callable

import numpy as np

from flows.arena.fits.law import Floats

ITERATIONS = 300
STILL = 1e-10  # a search ends with a step below it, in every parameter
LONGEST = 1.0  # step of a parameter: ours are logs
RIDGE = 1e-14  # of the mean curvature, so that a parameter without influence does not move

# parameters (R, P) and measurements (R, N) -> residuals (R, N) and their derivatives (R, N, P)
Model = Callable[[Floats, Floats], tuple[Floats, Floats]]


def huber(residuals: Floats, delta: float) -> Floats:
    """Sum over the last axis of r^2 / 2 up to delta and of delta (|r| - delta / 2) beyond."""
    size = np.abs(residuals)
    return np.where(size <= delta, size**2 / 2, delta * (size - delta / 2)).sum(-1)


def minimise(model: Model, start_RP: Floats, measured_RN: Floats, delta: float) -> tuple[Floats, Floats]:
    """Cost (R,) and parameters (R, P) of the minimum that each start leads to, of its row of measurements."""
    theta, left = start_RP.copy(), np.arange(len(start_RP))
    residuals, slopes = model(theta, measured_RN)
    cost, damping = huber(residuals, delta), np.ones(len(theta))
    for _ in range(ITERATIONS):
        r, j = residuals[left], slopes[left]
        weight = delta / np.maximum(np.abs(r), delta)
        turned = j.swapaxes(1, 2)
        gradient = turned @ (weight * r)[:, :, None]
        curvature = (turned * ((weight == 1) + damping[left, None] * weight)[:, None]) @ j
        curvature += RIDGE * np.trace(curvature, axis1=1, axis2=2)[:, None, None] * np.eye(theta.shape[1])
        step = -np.linalg.solve(curvature, gradient)[:, :, 0].clip(-LONGEST, LONGEST)
        tried = theta[left] + step
        new_residuals, new_slopes = model(tried, measured_RN[left])
        new_cost = huber(new_residuals, delta)
        better = new_cost < cost[left]
        won = left[better]
        theta[won], cost[won] = tried[better], new_cost[better]
        residuals[won], slopes[won] = new_residuals[better], new_slopes[better]
        damping[left] *= np.where(better, 0.25, 4.0)
        left = left[np.abs(step).max(1) >= STILL]
        if not len(left):
            break
    return cost, theta
