"""Looks at running comparisons: what error each may spend, when to stop, and that the promise is kept over all of them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from flows.arena.statistics.ratios import Pair, compare
from flows.arena.statistics.sequential import compare_at, decide, nominal_levels, planned_looks
from tests.flows.arena.noise import SHAPES, runs

CLEAR = [(0.90, 1.0), (0.91, 1.0), (0.905, 1.0), (0.90, 1.0), (0.91, 1.0)]
LEVEL = [(1.01, 1.0), (1.0, 1.01), (1.005, 1.0), (1.0, 1.005), (1.0, 1.0)]
rising = st.lists(st.integers(1, 60), min_size=1, max_size=6, unique=True).map(sorted)


@pytest.mark.parametrize(
    ("pairs", "count", "looks"),
    [
        (5, 2, (3, 5)),
        (5, 3, (3, 4, 5)),
        (5, 1, (5,)),
        (10, 2, (5, 10)),
        (12, 4, (3, 6, 9, 12)),
        (3, 2, (3,)),
        (2, 2, (2,)),
    ],
)
def test_looks_are_spread_evenly_and_have_enough_pairs(pairs: int, count: int, looks: tuple[int, ...]) -> None:
    assert planned_looks(pairs, count) == looks


@given(rising, st.sampled_from([0.8, 0.95, 0.99]))
def test_the_errors_of_all_looks_add_up_to_what_is_promised(looks: list[int], level: float) -> None:
    nominal = nominal_levels(looks, level)
    assert all(level - 1e-12 <= at < 1 for at in nominal)
    assert sum(1 - at for at in nominal) == pytest.approx(1 - level, abs=1e-11)


def test_errors_of_looks_by_hand() -> None:
    """At half of the pairs z / sqrt(1/2) = 1.959964 * 1.414214 = 2.771808, beyond which the normal has 0.005575 on both sides, and
    the rest of 0.05 is 0.044425."""
    assert [1 - at for at in nominal_levels((5, 10))] == pytest.approx([0.005575, 0.044425], abs=1e-6)
    assert nominal_levels((7,), 0.95) == pytest.approx((0.95,))


def test_a_third_look_at_five_pairs_widens_the_last_interval_by_a_fifth() -> None:
    two, three = (stats.t.isf((1 - nominal_levels(looks)[-1]) / 2, 4) for looks in ((3, 5), (3, 4, 5)))
    assert three / two == pytest.approx(1.2, abs=0.05)


@pytest.mark.parametrize("looks", [(), (0, 3), (3, 3), (5, 3)])
def test_looks_that_do_not_rise_are_refused(looks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="looks are rising counts of pairs"):
        nominal_levels(looks)
    with pytest.raises(ValueError, match="look"):
        decide(CLEAR, looks)


@pytest.mark.parametrize(("pairs", "count"), [(0, 2), (5, 0)])
def test_no_pairs_and_no_looks_are_refused(pairs: int, count: int) -> None:
    with pytest.raises(ValueError, match="looks need at least"):
        planned_looks(pairs, count)


def test_a_level_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="a level lies between"):
        nominal_levels((3, 5), 1.0)


def test_a_clear_case_ends_at_the_first_look() -> None:
    found = decide(CLEAR[:3], (3, 5))
    assert (found.stop, found.stopped_early, found.next_look) == (True, True, None)
    assert found.comparison.verdict == "better" and found.comparison.pairs == 3
    worse = decide([(b, a) for a, b in CLEAR], (3, 5))
    assert worse.stopped_early and worse.comparison.verdict == "worse" and worse.comparison.pairs == 3


def test_what_is_not_clear_goes_on_to_the_last_look_and_ends_there() -> None:
    before, after = decide(LEVEL[:3], (3, 5)), decide(LEVEL, (3, 5))
    assert (before.stop, before.stopped_early, before.next_look) == (False, False, 5)
    assert (after.stop, after.stopped_early, after.next_look) == (True, False, None)
    assert after.comparison.verdict == "no difference"


def test_between_looks_nothing_is_decided() -> None:
    """All of the first 3 is level, the fourth pair makes no look: however clear it is, it has to wait for the fifth."""
    assert decide(CLEAR[:2], (3, 5)).next_look == 3
    assert not decide([*LEVEL[:3], *CLEAR[:1]], (3, 5)).stop


def test_the_printed_interval_is_the_corrected_one() -> None:
    looks = (3, 5)
    first, last = nominal_levels(looks)
    early, late = decide(CLEAR[:3], looks).comparison, decide(LEVEL, looks).comparison
    assert (early.level, early.nominal, early.t) == (0.95, first, compare(CLEAR[:3], first).t)
    assert (late.level, late.nominal, late.bootstrap) == (0.95, last, compare(LEVEL, last).bootstrap)
    assert decide(LEVEL[:4], looks).comparison.t == compare(LEVEL[:4], last).t


def test_pairs_beyond_the_look_that_stopped_are_not_looked_at() -> None:
    assert decide([*CLEAR[:3], (9.0, 1.0), (9.0, 1.0)], (3, 5)) == decide(CLEAR[:3], (3, 5))


def test_more_pairs_than_planned_are_not_compared() -> None:
    with pytest.raises(ValueError, match="6 pairs where 5 were planned"):
        compare_at([*CLEAR, (1.0, 1.0)], (3, 5))


def test_a_run_that_diverged_counts_as_done() -> None:
    found = decide([(None, 1.0), (1.1, 1.0), (1.1, 1.0), (1.12, 1.0), (1.11, 1.0)], (3, 5))
    assert found.stop and not found.stopped_early and found.comparison.verdict == "worse"
    assert found.comparison.why == "the arm diverged in 1 of 5 pairs"


@given(st.lists(st.tuples(st.floats(0.5, 2), st.floats(0.5, 2)), min_size=5, max_size=5))
@settings(max_examples=40)
def test_a_study_taken_up_again_decides_the_same(pairs: list[Pair]) -> None:
    """Asked after every pair, or once when all are there."""
    asked = next(found for count in range(len(pairs) + 1) if (found := decide(pairs[:count], (3, 4, 5))).stop)
    assert asked == decide(pairs, (3, 4, 5))


def test_identical_methods_tie_in_95_of_100_trials() -> None:
    """Of 200 trials of each shape, studies of 5 pairs in which each of the looks at 3, 4 and 5 may claim a difference. No
    tolerance: by 20,000 trials a shape 97% tie, as the union bound promises less than it keeps."""
    trials = np.concatenate([runs(shape, 200, 5, sd=0.01) for shape in SHAPES])
    ties = sum(decide(list(map(tuple, trial)), (3, 4, 5)).comparison.verdict == "no difference" for trial in trials)
    assert ties >= 0.95 * len(trials)


@pytest.mark.parametrize("shape", SHAPES)
def test_identical_methods_tie_for_each_shape(shape: str) -> None:
    """At a level of 98% in 95% of 200 trials: at 95% half of such counts would fall short, since that is what the level says."""
    trials = runs(shape, 200, 5, sd=0.01)
    ties = sum(decide(list(map(tuple, trial)), (3, 5), 0.98).comparison.verdict == "no difference" for trial in trials)
    assert ties >= 0.95 * len(trials)


@pytest.mark.parametrize("looks", [(3, 5), (3, 4, 5), (5, 10), (3, 6, 9, 12)])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_t_intervals_of_all_looks_hold_the_truth_at_once(shape: str, looks: tuple[int, ...]) -> None:
    """In 95% of 20,000 trials, and 3 SD of a binomial below it are 0.5%, however many looks there are."""
    trials = runs(shape, 20_000, looks[-1], sd=0.01, key=1)
    logs = np.log(trials[..., 0] / trials[..., 1])
    held = np.ones(len(logs), bool)
    for look, level in zip(looks, nominal_levels(looks), strict=True):
        so_far = logs[:, :look]
        half = stats.t.isf((1 - level) / 2, look - 1) * so_far.std(1, ddof=1) / math.sqrt(look)
        held &= np.abs(so_far.mean(1)) <= half
    assert held.mean() >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / len(held))


def test_looks_without_a_correction_would_break_the_promise() -> None:
    """The same trials, each look at 95%: the fault that the correction is there for is seen."""
    trials = runs("normal", 20_000, 12, sd=0.01, key=1)
    logs = np.log(trials[..., 0] / trials[..., 1])
    held = np.ones(len(logs), bool)
    for look in (3, 6, 9, 12):
        so_far = logs[:, :look]
        held &= np.abs(so_far.mean(1)) <= stats.t.isf(0.025, look - 1) * so_far.std(1, ddof=1) / math.sqrt(look)
    assert held.mean() < 0.9
