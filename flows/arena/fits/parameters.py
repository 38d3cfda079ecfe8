"""Loss over parameters and tokens, L = E + A / N^alpha + B / D^beta: Hoffmann et al. 2022 (arXiv:2203.15556, approach 3).

As in the paper a Huber loss of log residuals with delta 1e-3 is minimised over log E, log A, log B and the exponents, from
a grid of starts. Differs from the paper: the grid is of the exponents, with the best E, A and B for each, since theirs fits
their sizes alone; and the minimiser is Newton's, to its end (huber.py), not L-BFGS, because theirs stopped early:
Besiroglu et al. 2024 (arXiv:2404.10102).
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from flows.arena.fits.huber import minimise
from flows.arena.fits.law import CannotFit, Floats, Law
from flows.arena.fits.points import columns, need, need_runs, need_unequal
from flows.arena.fits.residuals import Resampling

NAMES = ("E", "A", "alpha", "B", "beta")
EXPONENTS = np.geomspace(0.05, 2.0, 8)  # of each axis of the grid: 64 starts
TOGETHER = 0.999  # share of the variance of log tokens that parameters may explain


def chinchilla(values: Floats, parameters: Floats, tokens: Floats) -> Floats:
    """E + A / N^alpha + B / D^beta, the five first on the first axis of `values`."""
    floor, a, alpha, b, beta = values[:5]
    return floor + a * parameters**-alpha + b * tokens**-beta


def compute_optimal(law: Law, flop: float) -> tuple[float, float]:
    """Parameters and tokens with the lowest loss of those that cost `flop` at 6 FLOP a parameter and token (equation 4)."""
    _, a, alpha, b, beta = law.values[:5]
    parameters = (alpha * a / (beta * b)) ** (1 / (alpha + beta)) * (flop / 6) ** (beta / (alpha + beta))
    return float(parameters), float(flop / 6 / parameters)


def log_errors(theta_R5: Floats, n: Floats, d: Floats, log_losses_RN: Floats) -> tuple[Floats, Floats]:
    """log(fitted / measured) (R, N) and its derivatives (R, N, 5); theta is log E, log A, log alpha, log B, log beta, n and d
    (N,) are logs of N and D."""
    e, a, log_alpha, b, log_beta = theta_R5.T[:, :, None]
    alpha, beta = np.exp(log_alpha), np.exp(log_beta)
    terms = np.stack(np.broadcast_arrays(e, a - alpha * n, b - beta * d))
    fitted = np.logaddexp.reduce(terms)
    floor, size, data = np.exp(terms - fitted)
    return fitted - log_losses_RN, np.stack([floor, size, -alpha * n * size, data, -beta * d * data], axis=-1)


def starts(n: Floats, d: Floats, losses: Floats) -> Floats:
    """Starts (64, 5): for each pair of exponents the E, A and B, none negative, of least squared relative error."""
    from scipy.optimize import nnls  # 0.2 s, and a study seldom fits a law

    found = []
    for alpha in EXPONENTS:
        for beta in EXPONENTS:
            terms = np.column_stack([np.ones_like(n), np.exp(-alpha * n), np.exp(-beta * d)]) / losses[:, None]
            parts, _ = nnls(terms, np.ones_like(losses))
            e, a, b = np.log(np.maximum(parts, 1e-3 * losses.min()))  # a start at log 0 would never move
            found.append([e, a, np.log(alpha), b, np.log(beta)])
    return np.array(found)


def need_both(parameters: Floats, tokens: Floats, losses: Floats) -> None:
    """Raises CannotFit for runs that do not show what parameters and what tokens do, each by itself."""
    need(3, parameters=parameters, tokens=tokens)
    need_runs(len(NAMES) + 1, losses)
    need_unequal("losses", losses)
    n, d = np.log(parameters), np.log(tokens)
    if np.corrcoef(n, d)[0, 1] ** 2 > TOGETHER:
        raise CannotFit("parameters and tokens change together: needs several tokens at equal parameters")
    design = np.column_stack([n, d, np.ones_like(n)])
    slopes = np.linalg.lstsq(design, np.log(losses))[0]
    for name, slope in zip(("parameters", "tokens"), slopes[:2], strict=True):
        if slope >= 0:
            raise CannotFit(f"losses do not fall with {name}: there is no decrease to fit")


def fit_chinchilla(resampling: Resampling, delta: float, parameters: Floats, tokens: Floats, losses: Floats) -> Law:
    """The law of sorted runs. Raises CannotFit as need_both does."""
    need_both(parameters, tokens, losses)
    middle_n, middle_d = np.log(parameters).mean(), np.log(tokens).mean()
    n, d = np.log(parameters) - middle_n, np.log(tokens) - middle_d

    def fit(start: Floats, measured_RN: Floats) -> tuple[Floats, Floats]:
        return minimise(lambda theta, logs: log_errors(theta, n, d, logs), start, np.log(measured_RN), delta)

    def plain(theta: Floats) -> Floats:
        e, a, log_alpha, b, log_beta = theta.T
        alpha, beta = np.exp(log_alpha), np.exp(log_beta)
        return np.stack([np.exp(e), np.exp(a + alpha * middle_n), alpha, np.exp(b + beta * middle_d), beta], axis=-1)

    grid = starts(n, d, losses)
    cost, theta = fit(grid, np.tile(losses, (len(grid), 1)))
    best = theta[cost.argmin()]
    values = plain(best)
    fitted = chinchilla(values, parameters, tokens)
    residuals = np.log(losses / fitted)
    measured = resampling.samples(fitted, residuals, len(NAMES)).measured
    draws = plain(fit(np.tile(best, (len(measured), 1)), measured)[1])
    return Law("L = E + A / N^alpha + B / D^beta", NAMES, values, draws, chinchilla, residuals, resampling.level)


class Parameters(Resampling):
    name: Literal["parameters"] = "parameters"
    delta: float = Field(1e-3, gt=0, description="log residuals beyond it count by their size, not their square")

    def __call__(self, parameters: ArrayLike, tokens: ArrayLike, losses: ArrayLike) -> Law:
        """Law of runs of several sizes, each trained to its end on so many tokens; predicts the loss of `parameters, tokens`.

        Raises CannotFit for fewer than 6 runs or 3 different numbers of either kind, for parameters and tokens that change
        together, and for losses that are equal or do not fall with each of the two.
        """
        return fit_chinchilla(self, self.delta, *columns(parameters=parameters, tokens=tokens, losses=losses))
