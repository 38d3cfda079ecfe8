"""Each warning by hand, and beside it the case in which it must not be given."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.arena.statistics.flags import (
    Range,
    Tuning,
    at_edge,
    diverged,
    other_data,
    tuned_less,
    undecayed,
    won_by_decay,
)
from flows.arena.statistics.ratios import Comparison, compare

LR = "pretrain.optimizer.lr"
RANGE = {LR: (0.001, 0.1)}
AHEAD = compare([(0.97, 1.0), (0.975, 1.0), (0.972, 1.0), (0.971, 1.0)])
LEVEL = compare([(1.01, 1.0), (1.0, 1.01), (1.005, 1.0), (1.0, 1.005)])
BEHIND = compare([(1.02, 1.0), (1.025, 1.0), (1.022, 1.0), (1.021, 1.0)])
UNKNOWN = compare([(1.0, 1.0)])


@pytest.mark.parametrize("best", [0.001, 0.0015, 0.0007, 0.1, 0.07, 0.2])
def test_a_best_value_at_the_edge_of_its_range_is_named(best: float) -> None:
    """A tenth of a range of a factor 100 is a factor 1.585 at either end: up to 0.001585, and from 0.0631."""
    assert at_edge({LR: best}, RANGE) == [f"best {LR} {best:g} lies at the edge of its range 0.001 to 0.1"]


@pytest.mark.parametrize("best", [0.0017, 0.01, 0.06])
def test_a_best_value_inside_its_range_is_not(best: float) -> None:
    assert at_edge({LR: best}, RANGE) == []


def test_edges_are_of_tuned_parameters_alone() -> None:
    assert at_edge({"rl.lr": 0.001}, RANGE) == [] and at_edge({LR: 0.01}, {LR: (0.01, 0.01)}) == []
    assert at_edge({LR: 0.01, "b": 1.0}, {**RANGE, "b": (1.0, 2.0)}) == [
        "best b 1 lies at the edge of its range 1 to 2"
    ]


@given(st.floats(1e-6, 1.0), st.floats(1.5, 1e4), st.floats(0.0, 1.0), st.floats(0.01, 0.4))
def test_edges_are_as_wide_at_both_ends_and_in_any_unit(low: float, factor: float, place: float, share: float) -> None:
    if min(abs(place - share), abs(1 - place - share)) < 1e-6:
        return
    one = at_edge({"a": low * factor**place}, {"a": (low, low * factor)}, share)
    mirrored = at_edge({"a": factor ** (1 - place)}, {"a": (1.0, factor)}, share)
    assert bool(one) == bool(mirrored) == (place < share or place > 1 - share)


@pytest.mark.parametrize("limits", [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.5), (1.0, math.inf), (math.nan, 1.0)])
def test_a_range_that_has_no_logarithm_is_refused(limits: Range) -> None:
    with pytest.raises(ValueError, match="the range of a is no log range"):
        at_edge({"a": 1.0}, {"a": limits})
    with pytest.raises(ValueError, match="the range of a is no log range"):
        tuned_less("adamw", Tuning(6), "muon", Tuning(6, {"a": limits}))


def test_a_baseline_with_fewer_trials_is_named() -> None:
    assert tuned_less("adamw", Tuning(3, RANGE), "muon", Tuning(6, RANGE)) == [
        "adamw was not tuned as hard as muon: 3 trials, not 6"
    ]


@pytest.mark.parametrize("own", [{}, {LR: (0.5, 0.5)}, {"pretrain.optimizer.weight_decay": (0.01, 1.0)}])
def test_a_baseline_with_a_pinned_rate_is_named(own: dict[str, Range]) -> None:
    """Not in its ranges, in a range of one value, or with another parameter tuned in its place."""
    assert tuned_less("adamw", Tuning(6, own), "muon", Tuning(6, RANGE)) == [
        f"adamw was not tuned as hard as muon: {LR} is pinned"
    ]


def test_a_baseline_with_a_narrower_range_is_named() -> None:
    assert tuned_less("adamw", Tuning(6, {LR: (0.001, 0.01)}), "muon", Tuning(6, RANGE)) == [
        f"adamw was not tuned as hard as muon: {LR} over a factor 10, not 100"
    ]


def test_all_that_is_less_is_named() -> None:
    more = Tuning(6, {**RANGE, "b": (1.0, 2.0)})
    assert len(tuned_less("adamw", Tuning(5, {LR: (0.01, 0.02)}), "muon", more)) == 3


@pytest.mark.parametrize(
    ("baseline", "arm"),
    [
        (Tuning(6, RANGE), Tuning(6, RANGE)),
        (Tuning(6, {LR: (0.0003, 0.03)}), Tuning(6, RANGE)),  # as wide, elsewhere
        (Tuning(6, {LR: (0.007, 0.7)}), Tuning(6, RANGE)),  # as wide, but for the rounding of its logarithm
        (Tuning(9, {LR: (0.0001, 1.0), "b": (1.0, 2.0)}), Tuning(6, RANGE)),  # harder
        (Tuning(6), Tuning(6, {LR: (0.01, 0.01)})),  # both pinned
        (Tuning(0), Tuning(0)),
    ],
)
def test_a_baseline_tuned_as_hard_is_not_named(baseline: Tuning, arm: Tuning) -> None:
    assert tuned_less("adamw", baseline, "muon", arm) == []


def test_a_parameter_that_the_baseline_does_not_have_is_not_pinned() -> None:
    more = Tuning(6, {**RANGE, "pretrain.optimizer.momentum": (0.8, 0.99)})
    assert tuned_less("adamw", Tuning(6, RANGE), "muon", more, only_of_arm=["pretrain.optimizer.momentum"]) == []
    assert len(tuned_less("adamw", Tuning(6, RANGE), "muon", more)) == 1


def test_a_schedule_that_had_not_decayed_is_named_beside_those_that_had() -> None:
    at_end = {"constant": 1.0, "cosine": 0.1, "wsd": 0.0}
    assert undecayed("constant", at_end) == [
        "the schedule of constant had not decayed: at 1 of its peak at the budget, cosine at 0.1, wsd at 0"
    ]
    assert undecayed("cosine", at_end) == undecayed("wsd", at_end) == []


def test_schedules_that_stand_alike_are_not_named() -> None:
    for at_end in ({"a": 1.0, "b": 0.9}, {"a": 0.1, "b": 0.2}, {"a": 1.0}):
        assert [said for arm in at_end for said in undecayed(arm, at_end)] == []


def test_a_win_that_was_none_before_the_decay_is_called_so() -> None:
    assert won_by_decay("wsd", AHEAD, LEVEL, at_end=(0.0, 1.0)) == [
        "wsd wins only because its schedule ended: before its decay no difference (ratio 1)"
    ]
    (said,) = won_by_decay("wsd", AHEAD, BEHIND)
    assert said.endswith("before its decay worse (ratio 1.022)")


def test_a_win_that_a_fully_decayed_baseline_takes_away_is_called_so() -> None:
    for control, words in ((LEVEL, "no difference"), (BEHIND, "worse"), (UNKNOWN, "cannot be compared")):
        (said,) = won_by_decay("wsd", AHEAD, control=control)
        assert said.startswith(
            f"wsd wins only because its schedule ended: beside a fully decayed baseline {words} (ratio 1"
        )
    assert len(won_by_decay("wsd", AHEAD, LEVEL, (0.0, 1.0), LEVEL)) == 2


@pytest.mark.parametrize(
    ("end", "before", "at_end", "control"),
    [
        (AHEAD, AHEAD, (0.0, 1.0), AHEAD),  # ahead before, and beside the control
        (AHEAD, None, None, None),
        (AHEAD, LEVEL, (0.0, 0.1), None),  # the baseline had decayed, too
        (AHEAD, LEVEL, (1.0, 1.0), None),  # nobody's schedule had ended
        (AHEAD, UNKNOWN, (0.0, 1.0), None),
        (LEVEL, LEVEL, (0.0, 1.0), LEVEL),  # no win
        (BEHIND, LEVEL, (0.0, 1.0), BEHIND),
        (UNKNOWN, LEVEL, None, UNKNOWN),
    ],
)
def test_a_win_of_its_own_and_no_win_are_not(
    end: Comparison, before: Comparison | None, at_end: tuple[float, float] | None, control: Comparison | None
) -> None:
    assert won_by_decay("wsd", end, before, at_end, control) == []


def test_arms_that_saw_other_data_are_named() -> None:
    digests = {"adamw": ["a", "b", "c"], "muon": ["a", "b", "c"], "shorter": ["a"], "shuffled": ["a", "x", "y"]}
    assert other_data("adamw", digests) == ["shuffled saw other data than adamw in 2 of 3 pairs"]
    assert other_data("adamw", {"adamw": ["a"]}) == []


def test_runs_and_trials_that_diverged_are_counted() -> None:
    assert diverged("muon", [True, False, True], [False, True]) == [
        "muon diverged in 2 of 3 runs",
        "muon diverged in 1 of 2 tuning trials",
    ]
    assert diverged("muon", [False] * 5, [False] * 6) == diverged("muon", []) == []


def test_every_warning_is_one_line() -> None:
    every = [
        *at_edge({LR: 0.1}, RANGE),
        *tuned_less("adamw", Tuning(3), "muon", Tuning(6, RANGE)),
        *undecayed("a", {"a": 1.0, "b": 0.0}),
        *won_by_decay("wsd", AHEAD, LEVEL, None, LEVEL),
        *other_data("adamw", {"adamw": ["a"], "muon": ["b"]}),
        *diverged("muon", [True]),
    ]
    assert len(every) == 8 and all(said and "\n" not in said and not said.endswith(".") for said in every)
