"""What the intervals of a single look promise, by simulation over shapes of noise."""

import math

import numpy as np
import pytest

from flows.arena.statistics.intervals import resamples
from flows.arena.statistics.ratios import Comparison, compare
from tests.flows.arena.noise import SHAPES, runs

TRIALS = 500


def compared(trials: np.ndarray) -> list[Comparison]:
    return [compare(list(map(tuple, trial))) for trial in trials]


@pytest.mark.parametrize("pairs", [3, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_identical_methods_tie_as_often_as_promised(shape: str, pairs: int) -> None:
    """In 95% of the trials; 3 SD of a binomial of 500 are 2.9%."""
    found = compared(runs(shape, TRIALS, pairs, sd=0.01, key=2))
    ties = sum(one.verdict == "no difference" for one in found) / TRIALS
    assert ties >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / TRIALS)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_t_interval_holds_a_ratio_that_is_not_one(shape: str) -> None:
    found = compared(runs(shape, TRIALS, 5, sd=0.01, ratio=0.97, key=3))
    held = sum(one.t is not None and one.t[0] <= 0.97 <= one.t[1] for one in found) / TRIALS
    assert held >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / TRIALS)


@pytest.mark.parametrize("pairs", [5, 10])
def test_the_bootstrap_interval_holds_the_ratio_too_where_plain_percentiles_do_not(pairs: int) -> None:
    """At 5 pairs even their whole range holds the truth in no more than 1 - 2 / 2^5 = 94% of trials: 93% are asked for, and
    3 SD of a binomial of 1,000 are 2.4%. Plain percentiles of 5 pairs hold it in 83%."""
    trials = runs("normal", 1_000, pairs, sd=0.01, key=4)
    found = compared(trials)
    held = sum(one.bootstrap is not None and one.bootstrap[0] <= 1 <= one.bootstrap[1] for one in found) / 1_000
    assert held >= 0.93 - 0.024
    means = np.sort(np.log(trials[..., 0] / trials[..., 1]), 1) @ resamples(pairs)[:2000].T
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    plain = np.mean((low <= 0) & (high >= 0))
    assert plain < held and (pairs != 5 or 0.79 < plain < 0.87)
