"""Runs of two arms over seeds without any training: a value, the luck of the seed that both share, and noise of each run."""

from collections.abc import Callable

import numpy as np

Shape = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

# Each with a SD of about 1. What two runs of one method differ by is symmetric, whatever the shape of one run's noise is
SHAPES: dict[str, Shape] = {
    "normal": lambda rng, size: rng.normal(size=size),
    "uniform": lambda rng, size: rng.uniform(-1.7, 1.7, size),
    "heavy tails": lambda rng, size: rng.standard_t(3, size) / 1.7,
    "skewed": lambda rng, size: rng.exponential(size=size) - 1,
    "outliers": lambda rng, size: rng.normal(size=size) * np.where(rng.random(size) < 0.05, 10, 1) / 2.4,
    "rounded": lambda rng, size: np.round(4 * rng.normal(size=size)) / 4,
}


def runs(shape: str, trials: int, pairs: int, sd: float, ratio: float = 1.0, key: int = 0) -> np.ndarray:
    """Values of (arm, baseline), (trials, pairs, 2). sd: of the log ratio of a pair; the seed's luck moves both by 5 times it."""
    rng = np.random.Generator(np.random.Philox(key=key))
    luck = rng.normal(size=(trials, pairs, 1)) * 5 * sd
    own = SHAPES[shape](rng, (trials, pairs, 2)) * sd / np.sqrt(2)
    values: np.ndarray = 2.4 * np.exp(luck + own + np.log([ratio, 1.0]))
    return values
