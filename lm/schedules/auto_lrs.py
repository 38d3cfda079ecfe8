"""AutoLRS: the rate of the next steps is searched for by short trials: Jin et al. 2021 (arXiv:2105.10762, algorithm 1).

A run is cut into blocks. A block begins with trials, each from the same weights and optimizer with a rate of its own, for a
tenth of the steps that follow; a curve a e^(-rt) + c through its losses says what the loss would be at the end of the block. A
Gaussian process over the logarithm of the rate chooses which rate is tried next, by the lower confidence bound; the rate of the
lowest forecast then trains the block from the state that the trials began with.

Differs from the paper: trials are steps of the run, which read its data and count, so that half of a run is search; blocks are
parts of a run, whose lengths grow as the paper's do; all forecasts are made of training losses, which the paper does in
its first blocks only, and no spline takes outliers out; the decay r of the curve and the length and noise of the process are
the best of a grid; the first rate tried is the middle of the range, and not drawn. A rate at which the loss is no number ends
the run: the optimizer's own rate is the highest that is tried.
"""

from functools import lru_cache
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from lm.schedules.feedback import Feedback

LEAST = 4  # losses that a curve of three numbers is laid through
LONGEST = 8.0  # of a block, in lengths of the first: 8,000 steps and 1,000 in the paper
CANDIDATES = 97  # rates that may be tried, at equal distances of their logarithms
LENGTHS, NOISES = np.geomspace(0.05, 1.6, 6), np.geomspace(1e-4, 1.0, 5)


def forecast(losses: np.ndarray, at: float) -> float:
    """The loss at step `at` by the curve a e^(-rt) + c of least squares through losses at steps 0, 1, ..., LEAST or more.

    r is sought from 1 / at, a curve that has not bent by then, to 2, by a coarse grid and a fine one about its best; a may be
    negative, for losses that rise and level off.
    """
    lowest, highest = 1 / at, 2.0
    for points in (32, 33):
        decays = np.geomspace(lowest, highest, points)
        curves = [through(losses, decay) for decay in decays]
        best = int(np.argmin([error for error, _, _ in curves]))
        lowest, highest = decays[max(best - 1, 0)], decays[min(best + 1, points - 1)]
    _, a, c = curves[best]
    return float(a * np.exp(-decays[best] * at) + c)


def through(losses: np.ndarray, decay: float) -> tuple[float, float, float]:
    """(sum of squares that is left, a, c) of the best curve of this decay."""
    bend = np.exp(-decay * np.arange(len(losses)))
    apart = bend - bend.mean()
    a = float(apart @ losses / (apart @ apart))
    c = float(losses.mean() - a * bend.mean())
    return float(np.square(a * bend + c - losses).sum()), a, c


def matern(apart: np.ndarray, length: float) -> np.ndarray:
    """The Matern kernel of smoothness 5/2 of distances, 1 at 0."""
    scaled = np.sqrt(5) * np.abs(apart) / length
    return (1 + scaled + scaled**2 / 3) * np.exp(-scaled)


def posterior(places: np.ndarray, values: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean, standard deviation) at `at` of a Gaussian process that has seen these values, one or more, at these places.

    Values are brought to mean 0 and deviation 1 for it; length and noise are those of the grid with the largest likelihood.
    """
    middle, spread = values.mean(), values.std() or 1.0
    scaled, best = (values - middle) / spread, -np.inf
    mean, deviation = np.zeros(len(at)), np.ones(len(at))
    for length in LENGTHS:
        kernel, across = matern(places[:, None] - places, length), matern(at[:, None] - places, length)
        for noise in NOISES:
            root = np.linalg.cholesky(kernel + noise * np.eye(len(places)))
            half = np.linalg.solve(root, scaled)
            likelihood = -half @ half / 2 - np.log(root.diagonal()).sum()
            if likelihood > best:
                weights = np.linalg.solve(root, across.T)
                best, mean = likelihood, weights.T @ half
                deviation = np.sqrt((1 - np.square(weights).sum(0)).clip(min=0))
    return middle + spread * mean, spread * deviation


@lru_cache(maxsize=64)
def next_place(places: tuple[float, ...], values: tuple[float, ...], kappa: float) -> float:
    """Where to try next, in [0, 1] and not where it was tried: the candidate of the lowest mean - kappa x deviation, of equal
    ones the first; 1/2 for the first trial."""
    if not places:
        return 0.5
    at = np.linspace(0, 1, CANDIDATES)
    at = at[~np.isin(at, places)]
    mean, deviation = posterior(np.array(places), np.array(values), at)
    return float(at[np.argmin(mean - kappa * deviation)])


class Block(NamedTuple):
    """A part of a run: steps begins to trained are trials of `trial` steps each, those to `ends` are trained. horizon: step,
    counted from the block's begin, that forecasts are of."""

    begins: int
    trained: int
    ends: int
    trial: int

    @property
    def horizon(self) -> int:
        return self.ends - self.trained


def blocks_of(first: int, total_steps: int, number: int, growth: float, trials: int) -> list[Block]:
    """The steps from `first` on in so many blocks, each `growth` times as long as the one before and LONGEST times the first at
    most. Trials take half a block: fewer of them where they would be shorter than LEAST steps, none where two would be."""
    lengths = np.minimum(growth ** np.arange(number), LONGEST)
    edges = first + np.round(np.cumsum([0.0, *lengths]) / lengths.sum() * (total_steps - first)).astype(int)
    found = []
    for begins, ends in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        half = (ends - begins) // 2
        tried = min(trials, half // LEAST)
        trial = half // tried if tried > 1 else 0
        found.append(Block(begins, begins + (tried * trial if trial else 0), ends, trial))
    return found


class Searcher:
    """AutoLRS in a run of so many steps. A block too short for two trials has the rate of the one before, the first has the
    middle of the range."""

    def __init__(self, method: "AutoLRS", total_steps: int) -> None:
        self._method, self._warmup = method, int(method.warmup_fraction * total_steps)
        self._blocks = blocks_of(self._warmup, total_steps, method.blocks, method.growth, method.trials)
        self._chosen = 0.5  # place in the range of the rate that trains
        self._places: list[float] = []  # of the block's trials that have ended, and what they forecast
        self._values: list[float] = []
        self._losses: list[float] = []  # of the trial that runs

    def factor(self, step: int) -> float:
        middle = self._rate(0.5)
        if step < self._warmup:
            return middle * (step + 1) / (self._warmup + 1)
        if self.is_trial(step):
            return self._rate(next_place(tuple(self._places), tuple(self._values), self._method.kappa))
        return self._rate(self._chosen)

    def observe(self, step: int, loss: float) -> None:
        if not self.is_trial(step):
            return
        block = self._block(step)
        place = next_place(tuple(self._places), tuple(self._values), self._method.kappa)
        self._losses.append(loss)
        if len(self._losses) < block.trial:
            return
        self._places.append(place)
        self._values.append(forecast(np.array(self._losses), block.horizon))
        self._losses = []
        if step + 1 == block.trained:
            self._chosen = self._places[int(np.argmin(self._values))]
            self._places, self._values = [], []

    def is_trial(self, step: int) -> bool:
        return step >= self._warmup and step < self._block(step).trained

    def begins_trials(self, step: int) -> bool:
        return self.is_trial(step) and step == self._block(step).begins

    def goes_back(self, step: int) -> bool:
        if step < self._warmup:
            return False
        begins, trained, _, trial = self._block(step)
        return begins < step <= trained and (step - begins) % trial == 0

    def state(self) -> dict[str, list[float]]:
        kept = {"places": self._places, "values": self._values, "losses": self._losses, "chosen": [self._chosen]}
        return {name: list(values) for name, values in kept.items()}

    def load(self, state: dict[str, list[float]]) -> None:
        (self._chosen,) = state["chosen"]
        self._places, self._values, self._losses = (list(state[name]) for name in ("places", "values", "losses"))

    def _block(self, step: int) -> Block:
        return next(block for block in self._blocks if block.begins <= step < block.ends)

    def _rate(self, place: float) -> float:
        """The factor at a place of the range, whose logarithm goes by equal parts."""
        return float(self._method.lowest ** (1 - place))


class AutoLRS(Feedback):
    name: Literal["auto_lrs"] = "auto_lrs"
    has_trials: ClassVar[bool] = True
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description="of all steps, up to the middle of the range")
    lowest: float = Field(
        0.01, gt=0, lt=1, description="factor at the low end of the range that is searched; the high end is 1"
    )
    blocks: int = Field(4, gt=0, description="parts of a run, each with a search and a rate of its own")
    growth: float = Field(
        2.0, ge=1, description="each block over the one before, up to 8 times the first, as in the paper"
    )
    trials: int = Field(
        10, gt=1, description="rates tried in a block, at most; half of its steps are shared among them"
    )
    kappa: float = Field(
        1000.0,
        ge=0,
        description="deviations below the mean that decide what is tried next; so many: where least is known",
    )

    def follower(self, total_steps: int) -> Searcher:
        return Searcher(self, total_steps)
