"""Paired differences: none is found between models that are alike, a planted one is, and numbers by hand."""

from math import comb
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, stdtrit
from scipy.stats import binom

from lm.intervals import wilson
from lm.paired import Difference, byte_differences, expanded_tail, score_difference

TRIALS = 200
# What 5% of 200 trials exceed in one case of a thousand: 20 of them
MOST = int(binom.isf(0.001, TRIALS, 0.05))


def right(generator: np.random.Generator, count: int, apart: float = 0.0, noise: float = 0.4) -> np.ndarray:
    """Whether each of two models answers each problem (count, 2). Problems are hard or easy for both; the first is better by
    so much of them."""
    ease = generator.random(count)
    draws = ease[:, None] + noise * (generator.random((count, 2)) - 0.5)
    return (draws < 0.7 + np.array([apart, 0.0])).astype(float)


def test_models_that_are_alike_are_called_different_in_one_case_of_twenty_at_most() -> None:
    generator = np.random.Generator(np.random.Philox(key=1))
    called = 0
    for _ in range(TRIALS):
        both = right(generator, 300)
        found = score_difference(both[:, 0] - both[:, 1])
        assert found is not None
        called += not found.includes_zero
    assert 0 < called <= MOST


@pytest.mark.parametrize("total", [40, 300, 2000])
def test_few_problems_that_one_model_alone_answers_are_none_more_often_than_promised(total: int) -> None:
    """Of few to many problems on which two models differ, the share of cases that chance would call a difference: below
    5.8%, where plain percentiles call 12.5% at 4 problems. What is above 5% is that a count of problems is a whole number."""
    for differ in (*range(1, 11), 12, 15, 20, 25, 30, 35):
        called = 0.0
        for up in range(differ + 1):
            found = score_difference([1.0] * up + [-1.0] * (differ - up) + [0.0] * (total - differ))
            assert found is not None
            called += (not found.includes_zero) * comb(differ, up) / 2**differ
        assert called <= 0.058, differ
        assert differ > 5 or not called


def test_three_points_are_found_where_two_intervals_overlap() -> None:
    """2,000 problems of which 80% are answered: each interval by itself is 3.5 points wide."""
    generator = np.random.Generator(np.random.Philox(key=2))
    found, overlap = 0, 0
    for _ in range(50):
        both = right(generator, 2000, apart=0.03, noise=0.2)
        told = score_difference(both[:, 0] - both[:, 1])
        assert told is not None and told.mean == pytest.approx(both[:, 0].mean() - both[:, 1].mean())
        found += told.low > 0
        overlap += wilson(both[:, 0].sum(), 2000)[0] < wilson(both[:, 1].sum(), 2000)[1]
    assert found >= 48 and overlap > 5


def documents(generator: np.random.Generator, count: int, apart: float = 0.0) -> list[dict[str, Any]]:
    """Documents whose bits a byte vary by 0.3, and by 0.02 from one model to the other."""
    sizes, level = generator.integers(200, 3000, count), 1.5 + 0.3 * generator.standard_normal(count)
    own = level[:, None] + 0.02 * generator.standard_normal((count, 2)) + np.array([apart, 0.0])
    return [
        {"id": str(n), "source": "ab"[n % 2], "bytes": int(size), "one": float(a * size), "other": float(b * size)}
        for n, (size, (a, b)) in enumerate(zip(sizes, own, strict=True))
    ]


@pytest.mark.parametrize("count", [12, 60])
def test_documents_tell_models_that_are_alike_apart_no_more_often(count: int) -> None:
    generator = np.random.Generator(np.random.Philox(key=3))
    trials = [byte_differences(documents(generator, count), [("one", "other")]) for _ in range(TRIALS)]
    called = sum(not told["one", "other"].includes_zero for told in trials)
    assert 0 < called <= MOST


def test_three_hundredths_of_a_bit_are_found_on_sixty_documents() -> None:
    generator = np.random.Generator(np.random.Philox(key=4))
    for _ in range(10):
        rows = documents(generator, 60, apart=0.03)
        told = byte_differences(rows, [("one", "other")])["one", "other"]
        assert told.low > 0 and told.count == 60
        spent = [sum(row[name] for row in rows) / sum(row["bytes"] for row in rows) for name in ("one", "other")]
        assert told.mean == pytest.approx(spent[0] - spent[1]) and told.low < told.mean < told.high


def test_order_and_the_other_pairs_change_nothing_and_turned_round_it_is_the_opposite() -> None:
    rows = documents(np.random.Generator(np.random.Philox(key=5)), 30)
    alone = byte_differences(rows, [("one", "other")])
    both = byte_differences(rows[::-1], [("other", "one"), ("one", "other")])
    assert both["one", "other"] == alone["one", "other"]
    turned, told = both["other", "one"], alone["one", "other"]
    assert (turned.mean, turned.low, turned.high) == pytest.approx((-told.mean, -told.high, -told.low))


def test_nothing_is_told_of_nothing_nor_of_a_few_documents() -> None:
    assert score_difference([]) is None
    assert byte_differences(documents(np.random.Generator(np.random.Philox(key=6)), 9), [("one", "other")]) == {}


@settings(max_examples=40)
@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), min_size=1, max_size=60))
def test_an_interval_holds_its_mean_and_turns_round(differences: list[float]) -> None:
    found, turned = score_difference(differences), score_difference([-each for each in differences])
    assert found is not None and turned is not None
    assert found.low <= found.mean + 1e-12 and found.mean <= found.high + 1e-12 and found.count == len(differences)
    assert turned.mean == pytest.approx(-found.mean) and found == score_difference(differences[::-1])
    if set(differences) == {0.0}:
        assert found.includes_zero and found.high > 0, "that no problem differed does not say that none would"


@pytest.mark.parametrize("count", [10, 30, 200])
def test_the_tail_is_that_of_the_exact_quantile(count: int) -> None:
    exact = ndtr(-np.sqrt(count / (count - 1)) * stdtrit(count - 1, 0.975))
    assert expanded_tail(count) == pytest.approx(exact, rel=1e-3)  # the expansion's own error at 9 degrees


def test_the_words() -> None:
    assert Difference(0.1, 0.05, 0.2, 3).row()["verdict"] == "higher"
    assert Difference(-0.1, -0.2, -0.05, 3).row()["verdict"] == "lower"
    assert Difference(0.1, 0.0, 0.2, 3).row() == {
        "mean": 0.1, "low": 0.0, "high": 0.2, "count": 3, "verdict": "no difference"
    }  # fmt: skip
