"""Averages of weights: what every one of them must do, and means worked by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm import averages
from lm.averages import Ema, Last, Lawa, TailBlend
from lm.config import Config, methods_of
from lm.training.average import RunningAverage
from tests.lm.models import toy_model

EVERY = pytest.mark.parametrize("method", methods_of(averages), ids=lambda method: method.__name__)
quick = settings(deadline=None, max_examples=25, derandomize=True)


def counts(share: Config, total: int) -> list[float]:
    """What the weights after each step count for in the mean at the end."""
    found: list[float] = []
    for step in range(total):
        now = share(step, total)
        found = [*(count * (1 - now) for count in found), now]
    return found


@EVERY
@quick
@given(total=st.integers(1, 300))
def test_the_counts_are_those_of_a_mean_that_holds_the_last_weights(method: type[Config], total: int) -> None:
    found = counts(method(), total)
    assert all(0 <= count <= 1 for count in found)
    assert sum(found) == pytest.approx(1)
    assert found[-1] == pytest.approx(max(found)) and found[-1] > 0


def test_last_is_the_last_alone() -> None:
    assert counts(Last(), 4) == [0, 0, 0, 1]


def test_lawa_by_hand() -> None:
    assert counts(Lawa(checkpoints=3, every=2), 8) == pytest.approx([0, 0, 0, 1 / 3, 0, 1 / 3, 0, 1 / 3])
    assert counts(Lawa(checkpoints=3, every=2), 4) == pytest.approx([0, 1 / 2, 0, 1 / 2])  # a short run has fewer


def test_ema_by_hand() -> None:
    # halves of halves over 1 + 2 + 4
    assert counts(Ema(decay=0.5), 3) == pytest.approx([1 / 7, 2 / 7, 4 / 7])


def test_a_tail_is_blended_by_hand() -> None:
    """Of 8 steps the average begins with the fifth and takes in half of each after it: 1/8, 1/8, 1/4, 1/2. Of that 0.6 counts,
    and 0.4 of the last weights."""
    found = counts(TailBlend(blend=0.6, horizon=0.25, start=0.5), 8)
    assert found == pytest.approx([0, 0, 0, 0, 0.6 / 8, 0.6 / 8, 0.6 / 4, 0.6 / 2 + 0.4])


def test_the_model_becomes_the_mean() -> None:
    model, weights = toy_model(), []
    mean = RunningAverage(Lawa(checkpoints=2, every=2))
    for step in range(6):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(step)
        weights.append([parameter.detach().clone() for parameter in model.parameters()])
        mean.after(step, 6, dict(model.named_parameters()))
    mean.copy_to(dict(model.named_parameters()))
    for parameter, third, fifth in zip(model.parameters(), weights[3], weights[5], strict=True):
        torch.testing.assert_close(parameter.detach(), (third + fifth) / 2)


def test_last_leaves_every_bit() -> None:
    model = toy_model()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    mean = RunningAverage(Last())
    mean.after(0, 1, dict(model.named_parameters()))
    mean.copy_to(dict(model.named_parameters()))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
