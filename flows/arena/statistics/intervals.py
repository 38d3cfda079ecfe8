"""Intervals of the mean of a few numbers: Student's t, and percentiles of a bootstrap. Pure functions; x: (n,) numbers.

Why percentiles, not BCa (Efron 1987, doi:10.1080/01621459.1987.10478410): BCa takes its acceleration from a jackknife and its
bias correction from the share of resamples below the mean, both of which are noise at the 3 to 10 numbers that seeds give. The
percentiles know no formula and follow the shape of x. They are too narrow by about sqrt((n - 1) / n) and by z in place of t
(Hesterberg 2015, doi:10.1080/00031305.2015.1089789), so whoever decides by them asks the t interval as well.
"""

import math
from functools import lru_cache

import numpy as np
from scipy.special import stdtrit

Interval = tuple[float, float]  # low, high
RESAMPLES = 10_000  # the 2.5th percentile then moves by about 2% of the interval's width from one Philox key to another
KEY = 18


def t_interval(x: np.ndarray, level: float) -> Interval:
    """The interval mean +- t * SD / sqrt(n), with n - 1 degrees of freedom (Student 1908). x: at least 2 numbers."""
    half = float(stdtrit(len(x) - 1, (1 + level) / 2)) * float(np.std(x, ddof=1)) / math.sqrt(len(x))
    mean = float(np.mean(x))
    return mean - half, mean + half


def bootstrap_interval(x: np.ndarray, level: float) -> Interval:
    """The percentiles (1 - level) / 2 and (1 + level) / 2 of the means of resamples of x (Efron 1979).

    Differs: x is sorted first and the resamples of n numbers are always the same ones, so that neither the order of x nor the
    call changes a digit. x: at least 2 numbers.
    """
    low, high = np.quantile(resamples(len(x)) @ np.sort(x), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@lru_cache(maxsize=4)
def resamples(n: int) -> np.ndarray:
    """Share of each of n numbers in each resample, (RESAMPLES, n), read-only; a row sums to 1."""
    generator = np.random.Generator(np.random.Philox(key=KEY))
    shares = generator.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n
    shares.setflags(write=False)
    return shares
