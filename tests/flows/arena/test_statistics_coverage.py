"""What the intervals of a single look promise, by simulation over shapes of noise."""

import math

import numpy as np
import pytest

from flows.arena.statistics.ratios import Comparison, compare
from tests.flows.arena.noise import SHAPES, runs

TRIALS = 2_000


def compared(trials: np.ndarray) -> list[Comparison]:
    return [compare(list(map(tuple, trial))) for trial in trials]


@pytest.mark.parametrize("pairs", [3, 5, 10])
@pytest.mark.parametrize("shape", SHAPES)
def test_identical_methods_tie_as_often_as_promised(shape: str, pairs: int) -> None:
    """In 95% of the trials; 3 SD of a binomial of 2,000 are 1.5%."""
    found = compared(runs(shape, TRIALS, pairs, sd=0.01, key=2))
    ties = sum(one.verdict == "no difference" for one in found) / TRIALS
    assert ties >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / TRIALS)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_t_interval_holds_a_ratio_that_is_not_one(shape: str) -> None:
    found = compared(runs(shape, TRIALS, 5, sd=0.01, ratio=0.97, key=3))
    held = sum(one.t is not None and one.t[0] <= 0.97 <= one.t[1] for one in found) / TRIALS
    assert held >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / TRIALS)


def test_the_bootstrap_interval_alone_would_be_too_narrow() -> None:
    """Why the verdict asks both: of 5 pairs the percentiles hold the truth in about 83% of trials, sqrt(4 / 5) and z in place of
    t; from some 40 pairs on they are about as good as the t interval."""
    few, many = (
        sum(one.bootstrap is not None and one.bootstrap[0] <= 1 <= one.bootstrap[1] for one in found) / len(found)
        for found in (compared(runs("normal", 1_000, pairs, sd=0.01, key=4)) for pairs in (5, 40))
    )
    assert 0.78 < few < 0.88 and many > 0.92
