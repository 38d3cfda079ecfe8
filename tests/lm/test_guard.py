"""Spikes are skipped, lasting changes are not, divergence ends training, and a resumed guard decides as a whole one."""

import math
import random

import pytest

from lm.training.guard import FEW, WINDOW, Diverged, Guard


def noise(count: int, seed: int = 0) -> list[float]:
    generator = random.Random(seed)
    return [3.0 + generator.gauss(0, 0.1) for _ in range(count)]


def test_a_spike_of_loss_or_of_gradient_is_skipped() -> None:
    guard = Guard(6.0, 0.0)
    assert all(guard.accept(step, loss, 1.0) for step, loss in enumerate(noise(WINDOW)))
    assert not guard.accept(128, 4.5, 1.0)
    assert guard.accept(129, 3.0, 1.0)
    assert not guard.accept(130, 3.0, 5.0)
    assert guard.accept(131, 0.1, 0.01)  # only what is too high


def test_nothing_is_skipped_before_half_a_window_or_when_off() -> None:
    early, off = Guard(6.0, 0.0), Guard(0.0, 0.0)
    for step, loss in enumerate(noise(WINDOW // 2 - 1)):
        early.accept(step, loss, 1.0)
        off.accept(step, loss, 1.0)
    assert early.accept(63, 100.0, 1.0)
    assert all(off.accept(step, 1000.0, 1000.0) for step in range(200))


def test_a_lasting_change_of_level_is_accepted() -> None:
    guard = Guard(3.0, 0.0)
    for step, loss in enumerate(noise(WINDOW)):
        guard.accept(step, loss, 1.0)
    kept = [guard.accept(WINDOW + step, loss + 2, 1.0) for step, loss in enumerate(noise(WINDOW, 1))]
    assert not kept[0] and all(kept[WINDOW // 2 :])


def test_divergence_ends_training_and_says_where() -> None:
    guard = Guard(0.0, 1.5)
    for step, loss in enumerate(noise(FEW)):
        assert guard.accept(step, loss, 1.0)
    # the mean of 32 passes 1.5 * 3 with the 16th or 17th loss of 6
    for step in range(FEW, FEW + 15):
        guard.accept(step, 6.0, 1.0)
    with pytest.raises(Diverged, match=r"step 64: the mean loss of 32 steps is .* lower the learning rate"):
        guard.accept(64, 50.0, 1.0)


@pytest.mark.parametrize("level", [-1.0, 0.0])
def test_a_loss_that_has_no_level_is_compared_with_none(level: float) -> None:
    """1.5 times a mean below 0 is below it: a loss that stays, or falls, would count as diverged."""
    guard = Guard(0.0, 1.5)
    assert all(guard.accept(step, level - 0.001 * step, 1.0) for step in range(3 * FEW))


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan)])
def test_what_is_not_finite_ends_training_at_once(loss: float, norm: float) -> None:
    with pytest.raises(Diverged, match="step 7"):
        Guard(0.0, 0.0).accept(7, loss, norm)


def test_a_resumed_guard_decides_as_a_whole_one() -> None:
    values = [loss * (3 if step % 37 == 36 else 1) for step, loss in enumerate(noise(400))]
    whole, cut = Guard(4.0, 5.0), Guard(4.0, 5.0)
    decisions = []
    for step, loss in enumerate(values):
        if step % 50 == 49:
            saved, cut = cut.state(), Guard(4.0, 5.0)
            cut.load(saved)
        decisions.append((whole.accept(step, loss, loss), cut.accept(step, loss, loss)))
    assert all(a == b for a, b in decisions) and not all(a for a, _ in decisions)


def test_a_resumed_guard_gives_up_where_a_whole_one_does() -> None:
    """It compares with how the run began, which was long before the stop."""
    whole, cut = Guard(0.0, 2.0), Guard(0.0, 2.0)
    for step in range(2 * FEW):
        assert whole.accept(step, 1.0, 1.0) and cut.accept(step, 1.0, 1.0)
    saved, cut = cut.state(), Guard(0.0, 2.0)
    cut.load(saved)
    ended = []
    for guard in (whole, cut):
        with pytest.raises(Diverged) as raised:
            see_worse(guard)
        ended.append(str(raised.value))
    assert ended[0] == ended[1]


def see_worse(guard: Guard) -> None:
    for step in range(2 * FEW, 9 * FEW):
        guard.accept(step, 3.0, 1.0)
