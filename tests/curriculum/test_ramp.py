"""A batch that grows: by hand, over every method's plan, what is refused, and what training makes of it."""

from itertools import product

import numpy as np
import pytest

from lm.config import methods_of
from tasks.core.config import ConfigError
from tasks.curriculum import methods
from tasks.curriculum.plan import Ranges
from tasks.curriculum.ramp import Ramp
from tests.curriculum.corpora import COLUMNS, documents_of, plan_of, small


def sequences_of(plan: Ranges) -> list[int]:
    """How many sequences each step has."""
    return [len(np.unique(plan.sequence[plan.step == step])) for step in range(int(plan.step[-1]) + 1)]


def test_sizes_by_hand() -> None:
    assert Ramp().cuts(5).tolist() == [1] * 5
    assert Ramp(doublings=1).cuts(5).tolist() == [2, 2, 1, 1, 1]
    assert Ramp(doublings=2, share=0.7).cuts(10).tolist() == [4, 4, 4, 2, 2, 2, 2, 1, 1, 1]


def test_steps_are_cut_by_hand() -> None:
    """Three steps of two sequences, of which the first has a sequence of two ranges."""
    plan = Ranges(
        *map(np.array, ([0, 0, 0, 1, 1, 2, 2], [0, 0, 1, 0, 1, 0, 1], range(7), [0] * 7, [5, 4, 9, 9, 9, 9, 9]))
    )
    found = Ramp(doublings=1, share=0.7)(plan)
    assert found.step.tolist() == [0, 0, 1, 2, 3, 4, 4]
    assert found.sequence.tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert all(np.array_equal(getattr(found, name), getattr(plan, name)) for name in COLUMNS[2:])


@pytest.mark.parametrize(("method", "share"), [*product(methods_of(methods), (0.25, 0.5, 0.9))])
def test_the_same_sequences_in_the_same_order_in_more_steps(method, share: float) -> None:
    plan = plan_of(small(method), documents_of([40] * 60), 24, step=64)
    ramp = Ramp(doublings=2, share=share)
    found = ramp(plan)
    assert all(np.array_equal(getattr(found, name), getattr(plan, name)) for name in COLUMNS[2:])
    before, after, parts = sequences_of(plan), sequences_of(found), ramp.cuts(24).tolist()
    assert after == [count // part for count, part in zip(before, parts, strict=True) for _ in range(part)]
    heads = lambda one: np.flatnonzero(np.diff(one.step * 1000 + one.sequence))  # noqa: E731
    assert np.array_equal(heads(found), heads(plan))  # no sequence is cut, and no two are one
    assert set(parts) == {4, 2, 1}


def test_without_doublings_a_plan_stays_what_it_is() -> None:
    plan = plan_of(small(methods.ShuffledPacking), documents_of([40] * 60), 24)
    found = Ramp(share=0.9)(plan)
    assert all(np.array_equal(getattr(found, name), getattr(plan, name)) for name in COLUMNS)


def test_what_does_not_divide_names_the_key() -> None:
    plan = plan_of(small(methods.ShuffledPacking), documents_of([40] * 60), 24)  # two sequences a step
    with pytest.raises(
        ConfigError, match=r"curriculum.ramp.doublings: 2 sequences of step 0 of the plan cannot .* 4 steps"
    ):
        Ramp(doublings=2)(plan)
    with pytest.raises(
        ConfigError, match=r"curriculum.ramp.share: 0.1 of a plan's 24 steps is less than .* 3 doublings"
    ):
        Ramp(doublings=3, share=0.1)(plan)
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match="share"):
            Ramp(share=share)
