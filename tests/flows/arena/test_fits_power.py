"""The power law and what is made of it: parity with scipy, and intervals that hold the truth as often as they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from flows.arena.fits import ComputeGain, Extrapolation, Tokens, residuals
from flows.arena.fits.extrapolation import forecasts, settled
from flows.arena.fits.law import CannotFit, Floats
from flows.arena.fits.lines import fit_line
from flows.arena.fits.power import fit_power, inverse_power, power
from flows.arena.fits.residuals import widening

TRUTH = np.array([1.6, 40.0, 0.3])
# Of intervals at 0.8: 3 standard deviations of a share of 60 are 0.155
SIMULATIONS, LEVEL, LEAST, MOST = 60, 0.8, 0.645, 0.955


def curve(x: Floats, seed: int, sigma: float = 0.01) -> Floats:
    return power(TRUTH, x) * np.exp(sigma * np.random.default_rng(seed).standard_normal(len(x)))


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    floor=st.floats(0.1, 5), drop=st.floats(0.3, 5), exponent=st.floats(0.1, 1.5),
    first=st.floats(1, 1e12), seed=st.integers(0, 10),
)  # fmt: skip
def test_any_power_law_is_recovered(floor: float, drop: float, exponent: float, first: float, seed: int) -> None:
    """Points over a factor of 30, at random places; the term that falls is `drop` at the first."""
    x = first * np.sort(np.exp(np.random.default_rng(seed).uniform(0, np.log(30), 8)))
    truth = np.array([floor, drop * first**exponent, exponent])
    found = fit_power(x, power(truth, x)[None])[0]
    assert power(found, x) == pytest.approx(power(truth, x), rel=1e-9)
    assert found == pytest.approx(truth, rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_parity_with_curve_fit(seed: int) -> None:
    x = np.geomspace(1e5, 1e7, 12)
    losses = curve(x, seed)
    found = fit_power(x, losses[None])[0]
    # curve_fit begins at the truth and divides residuals by `sigma`, as relative errors do
    wanted, _ = curve_fit(
        lambda x, *p: power(np.array(p), x),
        x,
        losses,
        TRUTH,
        sigma=losses,
        bounds=([0, 0, 0.01], [9, 1e9, 4]),
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
    )
    cost = [np.sum((power(values, x) / losses - 1) ** 2) for values in (found, wanted)]
    assert cost[0] <= cost[1] * (1 + 1e-9)
    assert power(found, x) == pytest.approx(power(wanted, x), rel=1e-4)


def test_many_sets_are_fitted_as_each_alone_and_unused_points_do_not_count() -> None:
    x = np.geomspace(1e5, 1e7, 10)
    sets = np.stack([curve(x, seed) for seed in range(4)])
    together = fit_power(x, sets)
    assert together == pytest.approx(np.concatenate([fit_power(x, row[None]) for row in sets]), rel=1e-12)
    used = (np.arange(10) < 6).astype(float)
    spoiled = np.where(used > 0, sets[0], 1e3)
    shorter, masked = fit_power(x[:6], sets[:1, :6])[0], fit_power(x, spoiled[None], used[None])[0]
    assert power(masked, x) == pytest.approx(power(shorter, x), rel=1e-5)


def test_a_floor_below_zero_is_zero() -> None:
    x = np.geomspace(1, 100, 9)
    floor, scale, exponent = fit_power(x, (3 / x**0.5)[None])[0]
    assert floor < 1e-6 and (scale, exponent) == pytest.approx((3, 0.5), rel=1e-5)
    concave = 5 - np.log(x)  # falls for ever, as no law with a floor does
    assert fit_power(x, concave[None])[0][0] == 0


def test_a_line_by_hand() -> None:
    # points (0, 1), (1, 2), (2, 3): 1 + x; mirrored, 3 - x has no rise, and its best constant is sum(1/y) / sum(1/y^2) = 66/49
    x, y = np.array([[0.0, 1, 2]] * 2), np.array([[1.0, 2, 3], [3, 2, 1]])
    intercept, slope = fit_line(x, y, np.ones_like(x))
    assert intercept == pytest.approx([1, 66 / 49]) and slope == pytest.approx([1, 0])


def test_the_inverse_of_a_law_by_hand() -> None:
    # 1 + 8 / x^3 is 2 at x = 2, never 1, and never less
    assert inverse_power(np.array([1.0, 8, 3]), np.array([2.0, 9, 1, 0.5])) == pytest.approx([2, 1, np.inf, np.inf])


def test_widening_by_hand() -> None:
    # 8 points, 3 parameters, 95%: sqrt(8/5) x 2.570582 / 1.959964 from the tables of t with 5 degrees of freedom and of the normal
    assert widening(8, 3, 0.95) == pytest.approx(np.sqrt(8 / 5) * 2.570582 / 1.959964, rel=1e-6)
    assert widening(10**6, 3, 0.9) == pytest.approx(1, abs=1e-5)


def coverage(points: int) -> tuple[float, float]:
    """Shares of simulated studies whose interval holds the true exponent, and the true loss of 4 times the most tokens."""
    x, method, held = np.geomspace(1e5, 1e7, points), Tokens(level=LEVEL, resamples=100), []
    for seed in range(SIMULATIONS):
        law = method(x, curve(x, seed))
        (low, high), (below, above) = law.interval("a"), law.band(4e7)
        held.append((low <= TRUTH[2] <= high, below <= power(TRUTH, np.array(4e7)) <= above))
    exponents, losses = np.mean(held, axis=0)
    return float(exponents), float(losses)


@pytest.mark.parametrize("points", [6, 12])
def test_intervals_hold_the_truth_at_the_stated_rate(points: int) -> None:
    assert all(LEAST <= share <= MOST for share in coverage(points))


def test_intervals_of_residuals_as_they_are_would_hold_it_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residuals, "widening", lambda *_: 1.0)
    assert min(coverage(6)) < LEAST


def test_forecasts_hold_what_is_measured_later_at_the_stated_rate() -> None:
    """Points over a first fifth of a run; then one measurement at its end, with the same noise."""
    x, method, held = np.geomspace(2e4, 1e6, 40), Extrapolation(level=LEVEL, resamples=100), []
    for seed in range(SIMULATIONS):
        whole = curve(np.append(x, 5e6), seed)
        forecast = method(x, whole[:-1], 5e6)
        held.append(forecast.low <= whole[-1] <= forecast.high)
    assert LEAST <= np.mean(held) <= MOST


def test_a_forecast_of_clean_points_is_settled_from_its_first_trend_on() -> None:
    x = np.geomspace(1e5, 1e7, 30)
    forecast = Extrapolation()(x, power(TRUTH, x), 1e8)
    assert (forecast.low, forecast.loss, forecast.high) == pytest.approx([power(TRUTH, np.array(1e8))] * 3, rel=1e-5)
    assert forecast.settled_tokens == x[x >= 1e6][3]
    assert forecast.report()["settled_tokens"] == forecast.settled_tokens


def test_warm_up_is_left_out_of_a_forecast() -> None:
    x = np.geomspace(1e5, 1e7, 30)
    warm = np.where(x < 1e6, 9.0, power(TRUTH, x))
    assert Extrapolation()(x, warm, 1e8)["a"] == pytest.approx(0.3, rel=1e-5)
    assert Extrapolation(skip_fraction=0.0)(x, warm, 1e8)["a"] != pytest.approx(0.3, rel=0.1)
    with pytest.raises(CannotFit, match="needs 4 or more different tokens: got 3"):
        Extrapolation()(x[[0, 1, 2, -3, -2, -1]], warm[[0, 1, 2, -3, -2, -1]], 1e8)


@pytest.mark.parametrize("target", [np.nan, 0, -1, np.inf])
def test_a_target_that_is_no_number_is_one_line(target: float) -> None:
    x = np.geomspace(1e5, 1e7, 9)
    with pytest.raises(CannotFit, match="target_tokens must be finite and above 0"):
        Extrapolation()(x, power(TRUTH, x), target)


def test_trends_end_at_every_point_from_the_fourth_on() -> None:
    x = np.array([1.0, 1, 2, 4, 8, 16])
    ends, forecast = forecasts(x, 2 + 3 / x, 32.0)
    assert ends.tolist() == [8, 16] and forecast == pytest.approx([2 + 3 / 32] * 2, rel=1e-6)


def test_settled_by_hand() -> None:
    tokens = np.array([10.0, 20, 30, 40])
    assert settled(tokens, np.array([2.0, 3, 3.01, 3.0]), 0.01) == 20  # 3 to 3.01 is 0.3%
    assert settled(tokens, np.array([2.0, 2, 2, 3]), 0.01) is None
    assert settled(tokens[:1], np.array([2.0]), 0.01) is None
    assert settled(tokens, np.array([2.0, 2, 2, 2]), 0.01) == 10


def test_a_gain_by_hand() -> None:
    # the baseline is 1 + 8/C and the arm 1 + 4/C: at any C the baseline needs 2C; against 2 + 1/C the arm passes its floor at 4
    budgets = np.array([1.0, 2, 4, 8, 16])
    law = ComputeGain()(budgets, 1 + 8 / budgets, budgets, 1 + 4 / budgets)
    assert law.predict([1, 16, 1e6]) == pytest.approx([2, 2, 2], rel=1e-5) and law.flop == 16 and law.extrapolated
    assert law["gain"] == pytest.approx(2, rel=1e-5)
    lower = ComputeGain()(budgets, 2 + 1 / budgets, budgets, 1 + 4 / budgets)
    assert lower["gain"] == np.inf and lower.report()["parameters"]["gain"]["value"] is None
    worse = ComputeGain()(budgets, 1 + 4 / budgets, budgets, 1 + 8 / budgets)
    assert worse["gain"] == pytest.approx(0.5, rel=1e-5) and not worse.extrapolated
    with pytest.raises(CannotFit, match="arm: needs 4 or more different flop: got 3"):
        ComputeGain()(budgets, 1 + 4 / budgets, budgets[:3], 1 + 8 / budgets[:3])


def test_an_arm_that_is_its_baseline_gains_nothing_as_often_as_stated() -> None:
    budgets, method, held = np.geomspace(1e5, 1e7, 8), ComputeGain(level=LEVEL, resamples=100), []
    for seed in range(SIMULATIONS):
        low, high = method(budgets, curve(budgets, seed), budgets, curve(budgets, seed + 10**6)).interval("gain")
        held.append(low <= 1 <= high)
    assert LEAST <= np.mean(held) <= MOST
