"""Power: by the tables, by simulation with the verdict that is given, and what must rise and fall with what."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from flows.arena.statistics.power import largest_sd, pairs_needed, power_of, smallest_ratio
from flows.arena.statistics.ratios import compare
from flows.arena.statistics.sequential import decide, nominal_levels, planned_looks
from tests.flows.arena.noise import runs

sds = st.floats(0.001, 0.05)
ratios = st.floats(1.005, 1.2)
looks = st.integers(1, 3)


@pytest.mark.parametrize(
    ("effect", "power", "pairs"),
    [(0.2, 0.8, 199), (0.5, 0.8, 34), (0.8, 0.8, 15), (0.2, 0.9, 265), (0.5, 0.9, 44), (0.8, 0.9, 19)],
)
def test_the_numbers_of_pairs_of_the_published_tables(effect: float, power: float, pairs: int) -> None:
    """Small, medium and large effects (Cohen 1988) at 5%, two-sided, of a paired t test, as G*Power 3 gives them."""
    assert pairs_needed(math.exp(effect), 1.0, 0.95, power) == pairs


@given(st.integers(3, 200), ratios, sds)
@settings(max_examples=30)
def test_power_is_that_of_its_definition(pairs: int, ratio: float, sd: float) -> None:
    """The mean over chi-square v of n - 1 of P(|Z + moved| > t sqrt(v / (n - 1))), without a noncentral t."""
    critical, moved = stats.t.isf(0.025, pairs - 1), math.log(ratio) * math.sqrt(pairs) / sd
    share = (np.arange(5_000) + 0.5) / 5_000
    limit = critical * np.sqrt(stats.chi2.ppf(share, pairs - 1) / (pairs - 1))
    expected = np.mean(stats.norm.sf(limit - moved) + stats.norm.cdf(-limit - moved))
    assert power_of(pairs, ratio, sd) == pytest.approx(expected, abs=1e-4)


def test_power_with_looks_is_that_of_the_last_one() -> None:
    last = nominal_levels((5, 10), 0.9)[-1]
    assert power_of(10, 1.01, 0.01, 0.9, looks=2) == pytest.approx(power_of(10, 1.01, 0.01, last))


def test_power_by_simulation_without_a_noncentral_t() -> None:
    """A gain of 1 SD by 6 pairs; 3 SD of a binomial of 100,000 are at most 0.5%."""
    x = np.random.Generator(np.random.Philox(key=5)).normal(1.0, 1.0, (100_000, 6))
    found = np.abs(x.mean(1)) > stats.t.isf(0.025, 5) * x.std(1, ddof=1) / math.sqrt(6)
    assert power_of(6, math.e, 1.0) == pytest.approx(found.mean(), abs=0.005)


@pytest.mark.parametrize("pairs", [3, 10, 1_000, 100_000])
@pytest.mark.parametrize("effect", [1e-6, 0.01, 1.0, 10.0, 200.0])
def test_power_is_a_probability_however_far_the_effect(pairs: int, effect: float) -> None:
    assert 0.05 - 1e-9 <= power_of(pairs, math.exp(effect), 1.0) <= 1
    assert effect * math.sqrt(pairs) < 100 or power_of(pairs, math.exp(effect), 1.0) == pytest.approx(1)


@given(ratios, sds, looks)
@settings(max_examples=30)
def test_one_pair_less_is_not_enough(ratio: float, sd: float, count: int) -> None:
    pairs = pairs_needed(ratio, sd, looks=count)
    assert power_of(pairs, ratio, sd, looks=count) >= 0.9
    assert pairs == 3 or power_of(pairs - 1, ratio, sd, looks=count) < 0.9


@given(st.integers(3, 60), sds, st.sampled_from([0.5, 0.8, 0.9, 0.99]), looks)
@settings(max_examples=30)
def test_the_smallest_ratio_has_exactly_this_power(pairs: int, sd: float, power: float, count: int) -> None:
    ratio = smallest_ratio(pairs, sd, power=power, looks=count)
    assert ratio > 1 and power_of(pairs, ratio, sd, looks=count) == pytest.approx(power, abs=1e-6)
    assert power_of(pairs, 1 / ratio, sd, looks=count) == pytest.approx(power, abs=1e-6)


@given(ratios, sds)
@settings(max_examples=30)
def test_the_two_are_inverses(ratio: float, sd: float) -> None:
    pairs = pairs_needed(ratio, sd)
    assert smallest_ratio(pairs, sd) <= ratio * (1 + 1e-9)
    assert pairs == 3 or smallest_ratio(pairs - 1, sd) > ratio


@given(st.floats(1.005, 1.1), st.floats(1.005, 1.1), sds, sds)
@settings(max_examples=30)
def test_a_smaller_gain_more_noise_and_more_promised_need_no_fewer_pairs(
    one: float, other: float, sd: float, more: float
) -> None:
    (small, large), (quiet, loud) = sorted((one, other)), sorted((sd, more))
    assert pairs_needed(small, quiet) >= pairs_needed(large, quiet)
    assert pairs_needed(large, loud) >= pairs_needed(large, quiet)
    assert pairs_needed(large, loud, 0.99) >= pairs_needed(large, loud, 0.95)
    assert pairs_needed(large, loud, power=0.95) >= pairs_needed(large, loud, power=0.8)
    assert pairs_needed(large, loud, looks=2) >= pairs_needed(large, loud)


@given(st.integers(3, 50), sds)
@settings(max_examples=30)
def test_more_pairs_find_smaller_ratios(pairs: int, sd: float) -> None:
    assert smallest_ratio(pairs + 1, sd) < smallest_ratio(pairs, sd) < smallest_ratio(pairs, 1.1 * sd)


def test_without_noise_the_fewest_pairs_find_anything() -> None:
    assert pairs_needed(1.0001, 0.0) == 3 and smallest_ratio(3, 0.0) == 1.0
    assert power_of(3, 1.0, 0.0) == 0 and power_of(3, 1.0, 0.01) == pytest.approx(0.05)


def test_numbers_without_a_meaning_are_refused_in_a_line() -> None:
    with pytest.raises(ValueError, match="no number of pairs finds it"):
        pairs_needed(1.0, 0.01)
    with pytest.raises(ValueError, match=r"more than 1,000,000 pairs for a ratio of 1\.00001 at a SD of 1"):
        pairs_needed(1.00001, 1.0)
    for pairs, ratio, sd in ((2, 1.01, 0.01), (5, 0.0, 0.01), (5, -1.0, 0.01), (5, 1.01, -0.1), (5, math.nan, 0.1)):
        with pytest.raises(ValueError, match="power wants 3 pairs or more"):
            power_of(pairs, ratio, sd)
    with pytest.raises(ValueError, match="a SD needs 2 pairs"):
        largest_sd(0.01, 1)


@pytest.mark.parametrize("sd", [0.003, 0.006, 0.012])
@pytest.mark.parametrize("shape", ["normal", "uniform", "heavy tails"])
def test_a_planted_gain_of_one_percent_is_found_as_often_as_promised(shape: str, sd: float) -> None:
    """By the verdict itself, which asks the bootstrap too, in 90% of 400 trials; 3 SD of a binomial of those are 4.5%."""
    pairs = pairs_needed(0.99, sd, power=0.9)
    trials = runs(shape, 400, pairs, sd, ratio=0.99, key=6)
    found = sum(compare(list(map(tuple, trial))).verdict == "better" for trial in trials) / len(trials)
    assert found >= 0.9 - 3 * math.sqrt(0.9 * 0.1 / len(trials))


@pytest.mark.parametrize(("sd", "count"), [(0.006, 2), (0.012, 2), (0.012, 3)])
def test_a_planted_gain_is_found_with_looks_too_and_often_early(sd: float, count: int) -> None:
    pairs = pairs_needed(0.99, sd, power=0.9, looks=count)
    trials = runs("normal", 400, pairs, sd, ratio=0.99, key=7)
    decided = [decide(list(map(tuple, trial)), planned_looks(pairs, count)) for trial in trials]
    found = sum(one.comparison.verdict == "better" for one in decided) / len(trials)
    assert found >= 0.9 - 3 * math.sqrt(0.9 * 0.1 / len(trials))
    assert sum(one.stopped_early for one in decided) > 0.1 * len(trials)


def test_half_of_the_pairs_that_are_named_would_not_do() -> None:
    """The fault that the number is there for: a study of half the size misses the gain in more trials than promised."""
    pairs = pairs_needed(0.99, 0.012, power=0.9) // 2
    trials = runs("normal", 400, pairs, 0.012, ratio=0.99, key=8)
    found = sum(compare(list(map(tuple, trial))).verdict == "better" for trial in trials) / len(trials)
    assert found < 0.8


def test_the_upper_bound_of_a_sd_holds_as_often_as_promised() -> None:
    """Of 5 pairs, in 80% of 20,000 trials; 3 SD of a binomial of those are 0.85%. What is seen itself holds in fewer than half."""
    seen = np.random.Generator(np.random.Philox(key=9)).normal(size=(20_000, 5)).std(1, ddof=1)
    assert np.mean(largest_sd(1.0, 5) * seen >= 1) == pytest.approx(0.8, abs=0.0085) and np.mean(seen >= 1) < 0.5


def test_the_upper_bound_of_a_sd_by_a_printed_table() -> None:
    """The lower 20% point of chi-square with 4 degrees of freedom is 1.6488."""
    assert largest_sd(0.01, 5) == pytest.approx(0.01 * math.sqrt(4 / 1.6488), rel=1e-4)
