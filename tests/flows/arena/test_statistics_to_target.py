"""Where a curve reaches a target: by hand, what noise and spikes do, and what must not matter."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.arena.statistics.to_target import Reached, smoothed, to_target


def curve_of(values: Sequence[float | None], tokens: int = 100, seconds: float = 2.0) -> list[list[float | None]]:
    return [[tokens * (i + 1), seconds * (i + 1), value] for i, value in enumerate(values)]


FALLING = curve_of([8.0, 6.0, 5.0, 4.0, 3.5, 3.0, 2.8])
falling = st.lists(st.floats(0.01, 1), min_size=3, max_size=40).map(
    lambda steps: list(10 - np.cumsum(steps) / len(steps))
)


def test_a_place_between_two_points_by_hand() -> None:
    """4.5 lies half way from 5 at 300 tokens and 6 s to 4 at 400 tokens and 8 s."""
    assert to_target(FALLING, 4.5, flop_a_token=6e6) == Reached(350.0, 7.0, 350 * 6e6)
    assert to_target(FALLING, 4.5) == Reached(350.0, 7.0, None)


@pytest.mark.parametrize(("target", "tokens"), [(4.0, 400.0), (8.0, 100.0), (9.0, 100.0), (2.8, 700.0), (3.25, 550.0)])
def test_places_at_points_and_at_both_ends(target: float, tokens: float) -> None:
    found = to_target(FALLING, target)
    assert found and found.tokens == pytest.approx(tokens)


@pytest.mark.parametrize(
    "curve", [FALLING, [], curve_of([None, None, None]), curve_of([3.0, math.nan]), curve_of([2.0])]
)
def test_a_target_that_is_never_reached_has_no_place(curve: list[list[float | None]]) -> None:
    assert to_target(curve, 1.9) is None


def test_more_is_better_where_that_is_said() -> None:
    rising = curve_of([0.0, 0.1, 0.2, 0.4, 0.5, 0.6, 0.65])
    found = to_target(rising, 0.3, better="higher")
    assert found and (found.tokens, found.seconds) == pytest.approx((350.0, 7.0))
    assert to_target(rising, 0.7, better="higher") is None


def test_one_lucky_point_does_not_reach_a_target() -> None:
    values = [8.0, 6.0, 5.0, 4.0, 1.0, 3.5, 3.3, 3.2, 3.1]
    assert to_target(curve_of(values), 2.0) is None


@pytest.mark.parametrize("spike", [9.0, math.inf, math.nan, None])
def test_one_spike_does_not_leave_a_target(spike: float | None) -> None:
    values = [8.0, 6.0, 5.0, 4.0, 3.5, 3.0, spike, 2.9, 2.8, 2.7, 2.6]
    found = to_target(curve_of(values), 4.5)
    assert found and found.tokens == 350


def test_a_curve_that_leaves_the_target_for_good_has_not_stayed_there() -> None:
    assert to_target(curve_of([8.0, 6.0, 4.0, 3.0, 3.0, 3.0, 6.0, 7.0, 7.0, 7.0]), 4.5) is None


@pytest.mark.parametrize("end", [math.nan, math.inf, None, 50.0])
def test_a_run_that_diverged_in_the_end_has_not_stayed_there(end: float | None) -> None:
    assert to_target(curve_of([8.0, 6.0, 4.0, 3.0, 3.0, 3.0, end, end, end]), 4.5) is None


def test_it_is_the_last_time_that_counts() -> None:
    """Down to 3, up to 6 for 5 points, and down again: from 6 at 1,000 tokens to 4 at 1,100 the target of 5 is half way."""
    values = [8.0, 6.0, 3.0, 3.0, 3.0, 6.0, 6.0, 6.0, 6.0, 6.0, 4.0, 3.0, 3.0, 3.0]
    found = to_target(curve_of(values), 5.0)
    assert found and found.tokens == 1050


@given(falling)
def test_a_curve_that_only_falls_is_left_as_it_is(values: list[float]) -> None:
    """All but its ends, which Tukey's rule moves where the last step is more than twice the one before."""
    assert list(smoothed(np.array(values))[1:-1]) == values[1:-1]


def test_a_smooth_curve_is_left_as_it_is_to_both_ends() -> None:
    values = 2 + 6 * np.exp(-np.arange(200) / 40)
    assert smoothed(values) == pytest.approx(values, abs=0)


def test_the_window_grows_with_the_points() -> None:
    """Of 210 points it has 21: a spike of 10 in the middle is gone, one of 11 stays. Of 20 it has 5: 2 are gone, 3 stay."""
    for count, gone in ((210, 10), (20, 2)):
        values = np.zeros(count)
        values[count // 2 : count // 2 + gone] = 1
        assert not smoothed(values).any()
        values[count // 2 + gone] = 1
        assert smoothed(values).any()


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=40), st.integers(0, 4))
def test_smoothing_keeps_the_length_stays_in_range_and_turns_with_the_sign(values: list[float], half: int) -> None:
    x = np.array(values)
    found = smoothed(x, 2 * half + 1)
    assert len(found) == len(x) and x.min() <= found.min() and found.max() <= x.max()
    assert list(smoothed(-x, 2 * half + 1)) == list(-found)


@pytest.mark.parametrize("window", [0, 4, -1])
def test_a_window_without_a_middle_is_refused(window: int) -> None:
    with pytest.raises(ValueError, match="a window of medians is odd"):
        smoothed(np.zeros(9), window)


@pytest.mark.parametrize("tokens", [[100.0, 100.0], [200.0, 100.0], [100.0, None]])
def test_tokens_that_do_not_rise_are_refused(tokens: list[float | None]) -> None:
    with pytest.raises(ValueError, match="the tokens of a curve must rise"):
        to_target([[count, 1.0, 2.0] for count in tokens], 3.0)


@given(falling, st.floats(8.9, 10), st.floats(8.9, 10))
def test_a_harder_target_is_not_reached_earlier(values: list[float], one: float, other: float) -> None:
    hard, easy = (to_target(curve_of(list(values)), target) for target in sorted((one, other)))
    assert hard is None or (easy is not None and easy.tokens <= hard.tokens and easy.seconds <= hard.seconds)


@given(falling, st.floats(8.9, 10))
def test_tokens_and_seconds_are_of_the_same_place(values: list[float], target: float) -> None:
    found = to_target(curve_of(list(values)), target, flop_a_token=3.0)
    if found:
        assert found.seconds == pytest.approx(found.tokens / 50) and found.flop == pytest.approx(3 * found.tokens)
        assert 100 <= found.tokens <= 100 * len(values)


def test_noise_shifts_the_place_little() -> None:
    """A power law with noise of 1% a point reaches its target within 5% of where the law itself does, over 50 draws."""
    tokens = 4096.0 * np.arange(1, 241)
    law = 1.8 + 40 * tokens**-0.35
    exact = to_target([[t, t, v] for t, v in zip(tokens, law, strict=True)], 2.5)
    assert exact and exact.tokens == pytest.approx((40 / 0.7) ** (1 / 0.35), rel=1e-3)
    rng = np.random.Generator(np.random.Philox(key=10))
    noisy = [law * (1 + 0.01 * rng.normal(size=len(law))) for _ in range(50)]
    found = [to_target([[t, t, v] for t, v in zip(tokens, values, strict=True)], 2.5) for values in noisy]
    places = np.array([place.tokens for place in found if place])
    assert len(places) == 50 and abs(places.mean() / exact.tokens - 1) < 0.05
