"""Proposals: as many for every arm, the same for the same seed, and none that a value to come would have changed."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from flows.arena.search import best, proposals, spread

RANGES = {"a.lr": (0.001, 0.1), "a.other": (1.0, 8.0)}
values = st.lists(st.one_of(st.none(), st.floats(0.1, 10)), min_size=12, max_size=12)


@settings(deadline=None, max_examples=20)
@given(values, st.integers(0, 12), st.integers(1, 12), st.integers(0, 3))
def test_proposals_with_fewer_values_are_the_first_of_those_with_more(
    told: list[float | None], known: int, trials: int, seed: int
) -> None:
    told = told[:trials]
    every = proposals(RANGES, trials, seed, told)
    some = proposals(RANGES, trials, seed, told[:known])
    assert len(every) == trials and every[: len(some)] == some
    assert len(some) > min(known, trials - 1)  # there is always something to do
    for tuned in every:
        assert all(low <= tuned[name] <= high for name, (low, high) in RANGES.items())


@given(st.integers(1, 12))
def test_the_first_points_cover_every_range_evenly(of: int) -> None:
    for name, (low, high) in RANGES.items():
        parts = sorted(
            math.log(spread(RANGES, number, of)[name] / low) / math.log(high / low) * of for number in range(of)
        )
        assert [round(part - 0.5, 2) for part in parts] == [float(number) for number in range(of)]


def test_two_parameters_do_not_rise_together() -> None:
    points = [spread(RANGES, number, 5) for number in range(5)]
    by_rate = sorted(points, key=lambda point: point["a.lr"])
    assert [point["a.other"] for point in by_rate] not in (
        sorted(p["a.other"] for p in points),
        sorted((p["a.other"] for p in points), reverse=True),
    )


def test_later_trials_go_where_the_values_are_low() -> None:
    """Of a parabola around 0.01: the mean distance of those that are proposed is less than that of those spread evenly."""
    told: list[float | None] = []
    while len(told) < 16:
        asked = proposals({"lr": (0.0001, 1.0)}, 16, 0, told)
        told += [math.log10(point["lr"] / 0.01) ** 2 for point in asked[len(told) :]]
    assert sum(told[11:]) / 5 < 0.5 * sum(told[:11]) / 11  # two thirds are spread evenly


def test_two_trials_are_apart() -> None:
    """Of one value TPE proposes that value again."""
    assert [point["lr"] for point in proposals({"lr": (0.0001, 1.0)}, 2, 0, [])] == [0.001, 0.1]
    assert [point["lr"] for point in proposals({"lr": (0.0001, 1.0)}, 1, 0, [])] == [0.01]


def test_without_a_range_there_is_one_run() -> None:
    assert proposals({}, 6, 0, []) == proposals({}, 6, 0, [1.0]) == [{}]


def test_the_best_is_the_lowest_of_its_neighbourhood() -> None:
    ranges = {"lr": (0.001, 1.0)}
    points = [{"lr": 0.001}, {"lr": 0.03}, {"lr": 1.0}]  # each alone
    assert best(points, [3.0, 2.0, 2.1], ranges) == {"lr": 0.03}
    assert best(points, [None, None, 4.0], ranges) == {"lr": 1.0}
    assert best(points, [None, None, None], ranges) is None
    crowd = [{"lr": 0.01}, {"lr": 0.011}, {"lr": 0.009}, {"lr": 0.5}]
    assert best(crowd, [1.0, 2.0, 2.0, 1.5], ranges) == {"lr": 0.5}  # lucky, by its neighbours
    assert best(crowd, [1.0, 1.1, 1.1, 1.05], ranges) == {"lr": 0.5}
    assert best([{"lr": 0.4}, {"lr": 0.5}, {"lr": 0.01}], [1.0, 3.0, 1.1], ranges) == {"lr": 0.01}


def test_the_worst_counts_for_what_diverged() -> None:
    points, ranges = [{"lr": 0.4}, {"lr": 0.45}, {"lr": 0.01}, {"lr": 0.002}], {"lr": (0.001, 1.0)}
    assert best(points, [1.0, None, 1.1, 5.0], ranges) == {"lr": 0.01}


def test_without_a_range_the_one_trial_is_the_best() -> None:
    assert best([{}], [1.0], {}) == {}
