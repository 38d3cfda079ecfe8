"""Loss over parameters and tokens, L = E + A / N^alpha + B / D^beta: Hoffmann et al. 2022 (arXiv:2203.15556, approach 3).

As in the paper a Huber loss of log residuals with delta 1e-3 is minimised over log E, log A, log B and the exponents, from
a grid of starts. Differs from the paper: the grid is of the exponents, with the best E, A and B for each, since theirs fits
their sizes alone; only the best starts are followed; and the minimiser uses the Jacobian to its end (least_squares, not
L-BFGS), because theirs stopped early: Besiroglu et al. 2024 (arXiv:2404.10102).
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field
from scipy.optimize import least_squares, nnls

from flows.arena.fits.law import CannotFit, Floats, Law
from flows.arena.fits.points import columns, need, need_runs, need_unequal
from flows.arena.fits.residuals import Resampling

NAMES = ("E", "A", "alpha", "B", "beta")
EXPONENTS = np.geomspace(0.05, 2.0, 8)  # of each axis of the grid: 64 starts
FOLLOWED = 4  # starts, of those the best
TOGETHER = 0.999  # share of the variance of log tokens that parameters may explain
EXACT = 1e-12  # of the minimiser: relative change of cost and step, and gradient


def chinchilla(values: Floats, parameters: Floats, tokens: Floats) -> Floats:
    """E + A / N^alpha + B / D^beta, the five first on the first axis of `values`."""
    floor, a, alpha, b, beta = values[:5]
    return floor + a * parameters**-alpha + b * tokens**-beta


def compute_optimal(law: Law, flop: float) -> tuple[float, float]:
    """Parameters and tokens with the lowest loss of those that cost `flop` at 6 FLOP a parameter and token (equation 4)."""
    _, a, alpha, b, beta = law.values[:5]
    parameters = (alpha * a / (beta * b)) ** (1 / (alpha + beta)) * (flop / 6) ** (beta / (alpha + beta))
    return float(parameters), float(flop / 6 / parameters)


def log_terms(theta: Floats, n: Floats, d: Floats) -> Floats:
    """Logs (3, N) of the three terms of the loss; theta is log E, log A, log alpha, log B, log beta, n and d are logs of N
    and D."""
    e, a, log_alpha, b, log_beta = theta
    return np.stack([np.full_like(n, e), a - np.exp(log_alpha) * n, b - np.exp(log_beta) * d])


def follow(start: Floats, n: Floats, d: Floats, log_losses: Floats, delta: float) -> tuple[float, Floats]:
    """Cost and theta (5,) of the minimum that a start leads to: sum of Huber losses of log(fitted / measured)."""

    def residuals(theta: Floats) -> Floats:
        return np.logaddexp.reduce(log_terms(theta, n, d)) - log_losses

    def jacobian(theta: Floats) -> Floats:
        terms = log_terms(theta, n, d)
        floor, size, data = np.exp(terms - np.logaddexp.reduce(terms))
        alpha, beta = np.exp(theta[2]), np.exp(theta[4])
        return np.stack([floor, size, -alpha * n * size, data, -beta * d * data], axis=1)

    found = least_squares(
        residuals, start, jacobian, loss="huber", f_scale=delta, ftol=EXACT, xtol=EXACT, gtol=EXACT, max_nfev=200
    )
    return float(found.cost), found.x


def starts(n: Floats, d: Floats, losses: Floats) -> list[Floats]:
    """Starts (5,), the best first: for each pair of exponents the E, A and B, none negative, of least squared relative
    error."""
    found = []
    for alpha in EXPONENTS:
        for beta in EXPONENTS:
            terms = np.column_stack([np.ones_like(n), np.exp(-alpha * n), np.exp(-beta * d)]) / losses[:, None]
            parts, error = nnls(terms, np.ones_like(losses))
            e, a, b = np.log(np.maximum(parts, 1e-3 * losses.min()))  # a start at log 0 would never move
            found.append((error, np.array([e, a, np.log(alpha), b, np.log(beta)])))
    return [start for _, start in sorted(found, key=lambda pair: pair[0])]


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

    def plain(theta: Floats) -> Floats:
        e, a, log_alpha, b, log_beta = theta
        alpha, beta = np.exp(log_alpha), np.exp(log_beta)
        return np.array([np.exp(e), np.exp(a + alpha * middle_n), alpha, np.exp(b + beta * middle_d), beta])

    followed = [follow(start, n, d, np.log(losses), delta) for start in starts(n, d, losses)[:FOLLOWED]]
    theta = min(followed, key=lambda pair: pair[0])[1]
    values = plain(theta)
    fitted = chinchilla(values, parameters, tokens)
    residuals = np.log(losses / fitted)
    measured = resampling.samples(fitted, residuals, len(NAMES)).measured
    draws = np.stack([plain(follow(theta, n, d, np.log(row), delta)[1]) for row in measured])
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
