"""Ratios of paired runs: intervals by hand and by scipy, verdicts, runs without a value, values that have no logarithm."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flows.arena.statistics.intervals import bootstrap_interval, resamples, t_interval
from flows.arena.statistics.ratios import MIN_PAIRS, Comparison, Pair, compare

BEHIND = [(1.02, 1.0), (1.03, 1.0), (1.025, 1.0), (1.022, 1.0)]
AHEAD = [(b, a) for a, b in BEHIND]
LEVEL = [(1.01, 1.0), (1.0, 1.01), (1.005, 1.0), (1.0, 1.005)]
values = st.floats(0.01, 100)
some_pairs = st.lists(st.tuples(values, values), min_size=MIN_PAIRS, max_size=8)
numbers = st.lists(st.floats(-10, 10), min_size=2, max_size=12).map(np.array)
levels = st.sampled_from([0.5, 0.9, 0.95, 0.99, 0.9999])


@given(numbers, levels)
def test_the_t_interval_is_that_of_scipy(x: np.ndarray, level: float) -> None:
    if np.ptp(x) < 1e-6:  # scipy's answer is nan where there is no spread
        return
    theirs = stats.ttest_1samp(x, 0.0).confidence_interval(level)
    assert t_interval(x, level) == pytest.approx((theirs.low, theirs.high), rel=1e-7, abs=1e-9)


def test_the_t_interval_by_hand() -> None:
    """1, 2, 3: mean 2, SD 1, and t of 2 degrees of freedom at 95% is 4.30265 in every printed table."""
    half = 4.30265 / math.sqrt(3)
    assert t_interval(np.array([1.0, 2.0, 3.0]), 0.95) == pytest.approx((2 - half, 2 + half), abs=1e-5)


def test_the_ratio_by_hand() -> None:
    """Logs of the ratios 2, 4, 8 are 1, 2, 3 times log 2, so the ratio is 4 and the interval is the one above, in powers of 2."""
    half = 4.30265 / math.sqrt(3)
    found = compare([(2.0, 1.0), (8.0, 2.0), (4.0, 0.5)])
    assert found.estimate == pytest.approx(4) and found.sd == pytest.approx(math.log(2))
    assert found.t == pytest.approx((2 ** (2 - half), 2 ** (2 + half)), rel=1e-5)
    assert (found.scale, found.pairs, found.verdict, found.why) == ("ratio", 3, "no difference", "")


def test_the_bootstrap_interval_of_three_by_enumeration() -> None:
    """Means of the 27 resamples of 0, 0, 1 are 0, 1/3, 2/3 and 1, of 8, 12, 6 and 1 of them. At 50% t of 2 degrees of freedom is
    0.8165, times sqrt(3 / 2) 1, and beyond 1 the normal has 0.1587: within the 8/27 that are 0, and beyond the 7/27 above 1/3.
    At 73.55% it is 1.881 and 0.03, within the 1/27 that are 1; without the root it would be 0.062 and outside."""
    x = np.array([0.0, 1.0, 0.0])
    assert bootstrap_interval(x, 0.5) == pytest.approx((0, 2 / 3))
    assert bootstrap_interval(x, 0.7355) == pytest.approx((0, 1))


def test_the_bootstrap_interval_is_that_of_scipy() -> None:
    """At the percentiles that make up for 9 numbers. Both draw: an end moves by about 2% of the width from one stream to
    another, three times that is allowed."""
    x = np.random.Generator(np.random.Philox(key=1)).exponential(size=9)
    inside = 1 - 2 * stats.norm.sf(math.sqrt(9 / 8) * stats.t.isf(0.025, 8))
    drawn = stats.bootstrap((x,), np.mean, n_resamples=10_000, method="percentile", confidence_level=inside, rng=2)
    theirs = drawn.confidence_interval
    assert bootstrap_interval(x, 0.95) == pytest.approx(
        (theirs.low, theirs.high), abs=0.06 * (theirs.high - theirs.low)
    )


@given(st.integers(2, 12))
def test_a_resample_is_of_n_numbers_each_equally_often(n: int) -> None:
    """The share of a number has the mean 1/n and a SD of about 1/n; over 10,000 resamples 5 SD of their mean are 5% of 1/n."""
    drawn = resamples(n)
    assert np.allclose(drawn.sum(1), 1) and np.allclose(drawn * n, np.round(drawn * n))
    assert np.abs(drawn.mean(0) * n - 1).max() < 0.05


@given(some_pairs, st.randoms())
def test_the_order_of_the_pairs_changes_nothing(pairs: list[Pair], random: object) -> None:
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = compare(pairs), compare(shuffled)
    assert one.bootstrap == pytest.approx(other.bootstrap) and one.t == pytest.approx(other.t)
    assert one.verdict == other.verdict


@given(some_pairs)
def test_swapping_the_two_inverts_ratio_and_t_interval(pairs: list[Pair]) -> None:
    one, other = compare(pairs), compare([(b, a) for a, b in pairs])
    assert one.estimate and other.estimate and one.t and other.t
    assert one.estimate * other.estimate == pytest.approx(1)
    assert [one.t[0] * other.t[1], one.t[1] * other.t[0]] == pytest.approx([1, 1])


@given(some_pairs, st.floats(0.01, 100))
def test_the_unit_of_the_measure_changes_nothing(pairs: list[Pair], unit: float) -> None:
    one, other = compare(pairs), compare([(unit * a, unit * b) for a, b in pairs])  # type: ignore[operator]
    assert one.estimate == pytest.approx(other.estimate) and one.t == pytest.approx(other.t, rel=1e-6)


@given(some_pairs, levels, levels)
def test_a_higher_level_holds_a_lower_one(pairs: list[Pair], one: float, other: float) -> None:
    low, high = (compare(pairs, level) for level in sorted((one, other)))
    for inner, outer in ((low.t, high.t), (low.bootstrap, high.bootstrap)):
        assert inner and outer and outer[0] <= inner[0] and inner[1] <= outer[1]


@given(some_pairs)
def test_both_intervals_hold_the_ratio(pairs: list[Pair]) -> None:
    found = compare(pairs)
    assert found.estimate and found.t and found.bootstrap
    assert found.t[0] <= found.estimate * (1 + 1e-9) and found.estimate <= found.t[1] * (1 + 1e-9)
    ratios = [a / b for a, b in pairs]  # type: ignore[operator]
    assert min(ratios) * (1 - 1e-9) <= found.bootstrap[0] <= found.bootstrap[1] <= max(ratios) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("pairs", "lower", "higher"),
    [(BEHIND, "worse", "better"), (AHEAD, "better", "worse"), (LEVEL, "no difference", "no difference")],
)
def test_the_verdict_follows_the_direction_of_better(pairs: list[Pair], lower: str, higher: str) -> None:
    assert compare(pairs, better="lower").verdict == lower and compare(pairs, better="higher").verdict == higher


def test_both_intervals_must_exclude_one() -> None:
    """Three pairs that are all ahead: every resample is, too, but the t interval of 2 degrees of freedom is wide."""
    found = compare([(0.99, 1.0), (0.95, 1.0), (0.98, 1.0)])
    assert found.bootstrap and found.bootstrap[1] < 1 and found.t and found.t[1] > 1
    assert found.verdict == "no difference"


def test_the_bootstrap_alone_can_withhold_a_verdict() -> None:
    """A t interval barely above 0 whose resamples are skewed to below it: at 50% both ends are close to the mean."""
    x = np.array([-3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    level = next(
        at for at in np.arange(0.5, 0.99, 0.01) if (t_interval(x, at)[0] > 0) != (bootstrap_interval(x, at)[0] > 0)
    )
    pairs = [(math.exp(value), 1.0) for value in x]
    assert compare(pairs, float(level)).verdict == "no difference"


def test_one_pair_gives_a_ratio_and_no_interval() -> None:
    found = compare([(0.5, 1.0)])
    assert (found.estimate, found.sd, found.t, found.bootstrap) == (0.5, None, None, None)
    assert (found.verdict, found.why) == ("cannot be compared", "a verdict needs 3 pairs with both values, here 1")


def test_two_pairs_give_a_t_interval_and_no_verdict() -> None:
    found = compare([(0.5, 1.0), (0.5, 1.0)])
    assert found.t == pytest.approx((0.5, 0.5)) and found.bootstrap is None
    assert (found.verdict, found.why) == ("cannot be compared", "a verdict needs 3 pairs with both values, here 2")


def test_no_pair_gives_nothing() -> None:
    found = compare([])
    assert (found.estimate, found.sd, found.t, found.bootstrap, found.pairs) == (None, None, None, None, 0)
    assert found.verdict == "cannot be compared"


@pytest.mark.parametrize("gone", [None, math.nan, math.inf])
def test_a_run_without_a_value_leaves_its_pair_out_and_is_counted(gone: float | None) -> None:
    found, without = compare([(gone, 1.0), *BEHIND]), compare(BEHIND)
    assert (found.estimate, found.t, found.bootstrap) == (without.estimate, without.t, without.bootstrap)
    assert (found.pairs, found.lost_by_arm, found.lost_by_baseline) == (4, 1, 0)
    assert found.why == "the arm diverged in 1 of 5 pairs"


@pytest.mark.parametrize(
    ("pairs", "verdict"),
    [
        ([*BEHIND, (None, 1.0)], "worse"),  # what was left out spared the arm
        ([*AHEAD, (None, 1.0)], "cannot be compared"),
        ([*LEVEL, (None, 1.0)], "cannot be compared"),
        ([*AHEAD, (1.0, None)], "better"),
        ([*BEHIND, (1.0, None)], "cannot be compared"),
        ([*LEVEL, (1.0, None)], "cannot be compared"),
        ([*AHEAD, (None, None)], "cannot be compared"),
        ([*BEHIND, (None, 1.0), (1.0, None)], "cannot be compared"),
        ([(None, 1.0)] * 5, "cannot be compared"),
    ],
)
def test_beside_lost_runs_only_a_verdict_against_the_one_that_lost_them_stands(pairs: list[Pair], verdict: str) -> None:
    assert compare(pairs).verdict == verdict


def test_what_became_of_lost_runs_is_said() -> None:
    found = compare([*BEHIND, (None, None), (1.0, None)], lost="did not reach the target")
    assert found.why == (
        "the arm did not reach the target in 1 of 6 pairs; the baseline did not reach the target in 2 of 6 pairs"
    )


def test_values_at_or_below_zero_are_compared_by_differences() -> None:
    """Differences 0.1, 0.2, 0.3 of accuracies, of which one is 0: mean 0.2, SD 0.1, half of the interval 0.1 times that of 1."""
    found = compare([(0.1, 0.0), (0.4, 0.2), (0.4, 0.1)], better="higher")
    half = 0.1 * 4.30265 / math.sqrt(3)
    assert found.scale == "difference" and found.estimate == pytest.approx(0.2)
    assert found.t == pytest.approx((0.2 - half, 0.2 + half), abs=1e-6)
    assert found.why.startswith("by differences, 0.2, t -0.04841 to 0.4484, bootstrap 0.1 to 0.3")
    row = found.row()
    assert (row["ratio"], row["t"], row["bootstrap"]) == (None, None, None)
    assert row["difference"]["mean"] == pytest.approx(0.2) and row["difference"]["t"] == pytest.approx(
        list(found.t or ())
    )


def test_differences_have_verdicts_too() -> None:
    pairs = [(0.31, 0.0), (0.30, 0.0), (0.29, 0.0), (0.32, 0.0)]
    assert compare(pairs, better="higher").verdict == "better" and compare(pairs, better="lower").verdict == "worse"
    assert compare([(0.0, 0.0)] * 3).verdict == "no difference"


def test_the_scale_can_be_given() -> None:
    assert compare([(2.0, 1.0)] * 3, scale="difference").estimate == 1
    with pytest.raises(ValueError, match=r"a ratio needs values above 0: got -1"):
        compare([(2.0, 1.0), (-1.0, 1.0)], scale="ratio")


def test_the_same_ratio_in_every_pair_is_certain_and_said() -> None:
    found = compare([(3.0, 4.0)] * 4)
    assert (found.verdict, found.why) == ("better", "the same in every pair")
    assert found.t == pytest.approx((0.75, 0.75)) and found.bootstrap == pytest.approx((0.75, 0.75))


def test_what_differs_by_rounding_alone_is_no_difference() -> None:
    for scale in ("ratio", "difference"):
        found = compare([(3.0 * (1 + 1e-15), 3.0), (7.0 * (1 + 1e-15), 7.0), (11.0 * (1 + 1e-15), 11.0)], scale=scale)
        assert found.verdict == "no difference" and found.why.count("the same") == 0


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, -0.5])
def test_a_level_that_is_none_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="a level lies between 0 and 1"):
        compare(BEHIND, level)
    with pytest.raises(ValueError, match="a level lies between 0 and 1"):
        compare(BEHIND, nominal=level)


@pytest.mark.parametrize(
    "found",
    [
        compare([]),
        compare(BEHIND),
        compare([(0.0, 1.0)] * 3),
        compare([(None, 1.0)]),
        compare([(1e-300, 1e300), (1e300, 1e-300), (1.0, 1.0)], 0.99999),  # its interval ends beyond a float
    ],
)
def test_a_row_is_json_with_the_keys_of_a_comparison(found: Comparison) -> None:
    row = json.loads(json.dumps(found.row(), allow_nan=False))
    assert set(row) == {"ratio", "t", "bootstrap", "difference", "level", "pairs", "verdict", "why"}


def test_the_level_promised_is_printed_and_the_nominal_one_used() -> None:
    found = compare(BEHIND, 0.95, nominal=0.99)
    assert (found.level, found.nominal, found.row()["level"]) == (0.95, 0.99, 0.95)
    assert found.t == compare(BEHIND, 0.99).t and found.bootstrap == compare(BEHIND, 0.99).bootstrap
