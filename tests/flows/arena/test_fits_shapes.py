"""Laws over more than one number of a run: parameters and tokens, seconds, batch size, depth."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import least_squares, minimize

from flows.arena.fits import CriticalBatch, Depth, Parameters, Seconds
from flows.arena.fits.depth import sizes_of
from flows.arena.fits.huber import huber, minimise
from flows.arena.fits.law import CannotFit, Floats
from flows.arena.fits.parameters import chinchilla, compute_optimal, log_errors, starts
from flows.arena.fits.seconds import copies_per_token, product_copies

TRUTH = np.array([1.2, 30.0, 0.34, 60.0, 0.28])
SIZES, TOKENS = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e5, 6.4e6, 5), np.geomspace(1e6, 6.4e7, 5)))


def noise(shape: int, seed: int, sigma: float = 0.01) -> Floats:
    return np.exp(sigma * np.random.default_rng(seed).standard_normal(shape))


def runs(seed: int) -> Floats:
    return chinchilla(TRUTH, SIZES, TOKENS) * noise(len(SIZES), seed)


def test_the_published_law_is_recovered_at_its_own_sizes() -> None:
    published = np.array([1.69, 406.4, 0.34, 410.7, 0.28])  # Hoffmann et al. 2022, equation 10
    sizes, tokens = (grid.ravel() for grid in np.meshgrid(np.geomspace(7e7, 1.6e10, 6), np.geomspace(5e9, 5e11, 6)))
    law = Parameters(resamples=100)(sizes, tokens, chinchilla(published, sizes, tokens))
    assert law.values == pytest.approx(published, rel=1e-4)


def test_the_optimum_of_a_budget_is_the_lowest_of_all_that_cost_as_much() -> None:
    law = Parameters(resamples=100)(SIZES, TOKENS, chinchilla(TRUTH, SIZES, TOKENS))
    parameters, tokens = compute_optimal(law, 1e18)
    assert 6 * parameters * tokens == pytest.approx(1e18)
    around = parameters * np.exp(np.linspace(-0.1, 0.1, 21))
    assert np.argmin(law.predict(around, 1e18 / 6 / around)) == 10


def logs(seed: int) -> tuple[Floats, Floats, Floats]:
    """Logs of N and D about their means, and of the losses of 25 runs."""
    return np.log(SIZES) - np.log(SIZES).mean(), np.log(TOKENS) - np.log(TOKENS).mean(), np.log(runs(seed))


@pytest.mark.parametrize("delta", [1e-3, 1e-2, 1.0])
def test_parity_with_least_squares_of_scipy(delta: float) -> None:
    """From 8 of the starts, each followed alone by scipy: the lowest that it finds is ours, to the parameters."""
    n, d, measured = logs(0)
    grid = starts(n, d, np.exp(measured))
    cost, theta = minimise(lambda t, y: log_errors(t, n, d, y), grid, np.tile(measured, (len(grid), 1)), delta)

    def alone(part: int) -> Callable[[Floats], Floats]:
        return lambda t: log_errors(t[None], n, d, measured[None])[part][0]

    tight = {"ftol": 1e-14, "xtol": 1e-14, "gtol": 1e-14}
    found = [least_squares(alone(0), start, alone(1), loss="huber", f_scale=delta, **tight) for start in grid[::8]]
    lowest = min(found, key=lambda one: one.cost)
    assert cost.min() == pytest.approx(lowest.cost, rel=1e-6) and cost.min() <= lowest.cost * (1 + 1e-9)
    assert theta[cost.argmin()] == pytest.approx(lowest.x, abs=1e-3)


def test_the_paper_s_minimiser_finds_nothing_lower() -> None:
    """L-BFGS, from where ours ended. Scaled by delta^-2, since it stops by absolute sizes: what ended the paper's fit early."""
    n, d, measured = logs(0)
    grid = starts(n, d, np.exp(measured))
    cost, theta = minimise(lambda t, y: log_errors(t, n, d, y), grid, np.tile(measured, (len(grid), 1)), 1e-3)
    found = minimize(
        lambda t: huber(log_errors(t[None], n, d, measured[None])[0], 1e-3)[0] * 1e6,
        theta[cost.argmin()],
        method="L-BFGS-B",
    )
    assert cost.min() <= found.fun * 1e-6 * (1 + 1e-6)


def test_the_derivatives_of_the_log_errors_are_those_of_differences() -> None:
    n, d, measured = logs(0)
    theta, tiny = np.array([[0.1, -0.3, -1.0, 0.2, -1.2]]), 1e-6
    _, slopes = log_errors(theta, n, d, measured[None])
    for place in range(5):
        up, down = (log_errors(theta + sign * tiny * np.eye(5)[place], n, d, measured[None])[0] for sign in (1, -1))
        assert slopes[..., place] == pytest.approx((up - down) / (2 * tiny), abs=1e-8)


def test_a_huber_loss_by_hand() -> None:
    # delta 2: 1 within is 1/2, 2 is 2, beyond -5 is 2 (5 - 1) = 8
    assert huber(np.array([[1.0, 2, -5], [0, 0, 2]]), 2.0) == pytest.approx([10.5, 2])


def test_intervals_of_the_law_over_parameters_hold_the_truth_at_the_stated_rate() -> None:
    method, held = Parameters(level=0.9, resamples=100), []
    for seed in range(40):
        law = method(SIZES, TOKENS, runs(seed))
        (low, high), (below, above) = law.interval("beta"), law.band(1e7, 1e8)
        truth = chinchilla(TRUTH, np.array(1e7), np.array(1e8))
        held.append((low <= TRUTH[4] <= high, below <= truth <= above))
    assert all(0.76 <= share <= 1 for share in np.mean(held, axis=0))  # 40 at 0.9: 3 standard deviations are 0.14


def test_an_outlier_moves_the_huber_fit_little() -> None:
    losses = chinchilla(TRUTH, SIZES, TOKENS)
    losses[7] *= 1.5
    law = Parameters(resamples=100)(SIZES, TOKENS, losses)
    assert law["alpha"] == pytest.approx(0.34, rel=0.01) and law["beta"] == pytest.approx(0.28, rel=0.01)


def test_parameters_and_tokens_that_change_together_are_refused() -> None:
    sizes = np.geomspace(1e5, 1e7, 8)
    with pytest.raises(CannotFit, match="parameters and tokens change together"):
        Parameters()(sizes, np.round(20 * sizes), chinchilla(TRUTH, sizes, 20 * sizes))


def test_seconds_of_one_size_are_tokens_at_a_pace() -> None:
    tokens = np.geomspace(1e5, 1e7, 8)
    law = Seconds()(np.full(8, 1e6), np.full(8, 5e7), tokens, tokens / 2e4, 2 + 60 / tokens**0.28)
    assert law["A"] == 0 and law["c"] == 0 and law["d"] == pytest.approx(1 / 2e4)
    assert law.predict(1e6, 5e7, 1000.0) == pytest.approx(2 + 60 / 2e7**0.28, rel=1e-6)


def test_of_two_shapes_of_one_size_the_faster_has_the_lower_loss() -> None:
    copies = 10 * SIZES
    law = Seconds(resamples=100)(SIZES, copies, TOKENS, TOKENS * 1e-9 * copies, chinchilla(TRUTH, SIZES, TOKENS))
    deep, wide = law.predict(1e6, [2e7, 1e7], 100.0)
    assert deep > wide and wide == pytest.approx(chinchilla(TRUTH, np.array(1e6), np.array(100 / 1e-2)), rel=1e-5)


def test_copies_by_hand() -> None:
    assert product_copies(2, 3, 5) == 6 + 15 + 10
    # 1 layer of width 4, 2 heads, 6 in the feed-forward layer, vocabulary 8, one sequence of 3 tokens:
    # qkv 3x4x12: 12+48+36, out 3x4x4: 12+16+12, gate and up 3x4x12: 96, down 3x6x4: 18+24+12,
    # of each head 3x2x3 twice: 6+6+9 and 9+6+6, head 3x4x8: 12+32+24
    assert copies_per_token(1, 4, 2, 6, 8, 3, 1) == pytest.approx((96 + 40 + 96 + 54 + 2 * 42 + 68) / 3)
    # at equal parameters, 4 layers of width 256 or 1 of 512, the deep one moves more
    assert copies_per_token(4, 256, 4, 1024, 256, 256, 16) > copies_per_token(1, 512, 4, 2048, 256, 256, 16)


def test_the_critical_batch_costs_twice_the_least_of_both() -> None:
    batch = 512.0 * 2 ** np.arange(6)
    law = CriticalBatch()(batch, 1e6 * (1 + batch / 4096))
    tokens = law.predict(law["B_crit"])
    assert tokens == pytest.approx(2 * law["E_min"]) and tokens / law["B_crit"] == pytest.approx(2 * law["S_min"])
    steps, spent = law.predict(batch) / batch, law.predict(batch)
    assert (steps / law["S_min"] - 1) * (spent / law["E_min"] - 1) == pytest.approx(np.ones(6))


def test_batches_on_one_side_of_the_critical_one_are_refused() -> None:
    batch = 512.0 * 2 ** np.arange(6)
    with pytest.raises(CannotFit, match="all lie far below the critical batch, try larger"):
        CriticalBatch()(batch, 1e6 - batch)
    with pytest.raises(CannotFit, match="all lie far above the critical batch, try smaller"):
        CriticalBatch()(batch, batch**1.2)


def test_intervals_of_the_critical_batch_hold_it_at_the_stated_rate() -> None:
    batch, method, held = 512.0 * 2 ** np.arange(6), CriticalBatch(level=0.9, resamples=200), []
    for seed in range(200):
        low, high = method(batch, 1e6 * (1 + batch / 4096) * noise(6, seed, 0.05)).interval("B_crit")
        held.append(low <= 4096 <= high)
    assert 0.84 <= np.mean(held) <= 0.96  # 200 at 0.9: 3 standard deviations are 0.064


def depths(slope: float, bend: float, seed: int, sigma: float) -> tuple[Floats, Floats, Floats]:
    """Two sizes at depths 2 to 16, 3 seeds each; parameters are equal but for a percent."""
    depth = np.tile([2.0, 4, 8, 16], 6)
    size = np.repeat([1e6, 4e6], 12)
    x = np.log(depth / np.sqrt(32))
    loss = (1 + 1e6 / size) * np.exp(slope * x + bend * x**2) * noise(24, seed, sigma)
    return depth, size * (1 + 0.01 * np.log2(depth)), loss


@pytest.mark.parametrize(("slope", "prefer"), [(-0.03, "deeper"), (0.03, "wider"), (0.0, "no difference")])
def test_what_is_preferred_is_where_the_loss_falls(slope: float, prefer: str) -> None:
    law = Depth()(*depths(slope, 0.0, 0, 0.005))
    assert law.prefer == prefer == law.report()["prefer"]


def test_no_optimum_lies_where_the_parabola_does_not_turn() -> None:
    assert Depth()(*depths(-0.03, -0.01, 0, 0.0))["optimum"] == np.inf
    assert Depth()(*depths(0.03, -0.01, 0, 0.0))["optimum"] == 0


def test_intervals_over_depth_hold_the_truth_at_the_stated_rate() -> None:
    method, held = Depth(level=0.9, resamples=200), []
    for seed in range(200):
        law = method(*depths(-0.02, 0.03, seed, 0.01))
        optimum = np.sqrt(32) * np.exp(0.02 / 0.06)
        held.append(
            [
                low <= truth <= high
                for truth, (low, high) in ((-0.02, law.interval("exponent")), (optimum, law.interval("optimum")))
            ]
        )
    assert all(0.84 <= share <= 0.96 for share in np.mean(held, axis=0))


def test_counts_that_are_close_are_one_size() -> None:
    assert sizes_of(np.array([4e6, 1e6, 1.05e6, 4.1e6, 1.1e6]), 0.1).tolist() == [1, 0, 0, 1, 0]


def test_mixture_of_depths_that_change_with_the_size_are_refused() -> None:
    with pytest.raises(CannotFit, match="depths and parameters change together"):
        Depth()([2, 4, 8, 2, 4, 8], [1e6, 2e6, 4e6] * 2, [3.0, 2.9, 2.8, 3.1, 2.95, 2.7])
    with pytest.raises(CannotFit, match="needs 4 or more runs: got 3"):
        Depth()([2, 4, 8], [1e6] * 3, [3.0, 2.9, 2.8])
