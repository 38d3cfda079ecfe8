"""Each warning by hand, and beside it the case in which it must not be given."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.arena.statistics.flags import (
    ENDED,
    Range,
    Tuning,
    at_edge,
    diverged,
    noisy,
    none_decayed,
    other_data,
    other_tokens,
    tuned_less,
    unbeaten,
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


@pytest.mark.parametrize("at_end", [{}, {"wsd": 0.0, "constant": 1.0}, {"constant": 0.1, "linear": 0.0}])
def test_a_win_that_a_control_takes_away_is_one_of_its_schedule_only_where_that_had_ended_alone(
    at_end: dict[str, float],
) -> None:
    def of(beside: Comparison, at_end: dict[str, float], end: Comparison = AHEAD) -> list[str]:
        return unbeaten("wsd", "constant", "linear", end, beside, at_end)

    ended = {"constant": 1.0, "linear": 0.0}
    for beside, words in ((LEVEL, "no difference"), (BEHIND, "worse")):
        (said,) = of(beside, ended)
        assert said.startswith(
            f"wsd {ENDED} the schedule of constant had not ended: beside linear, whose had, {words} (ratio 1"
        )
    for beside, words in ((LEVEL, "no difference"), (BEHIND, "worse"), (UNKNOWN, "cannot be compared")):
        (said,) = of(beside, at_end)
        assert said.startswith(f"wsd is better than constant, not than its control linear: {words} (ratio 1")
        assert ENDED not in said
    assert ENDED not in of(UNKNOWN, ended)[0]  # nothing is known of it
    assert of(AHEAD, ended) == of(LEVEL, ended, LEVEL) == of(BEHIND, ended, UNKNOWN) == []


@pytest.mark.parametrize(
    ("end", "before", "at_end"),
    [
        (AHEAD, AHEAD, (0.0, 1.0)),  # ahead before
        (AHEAD, None, None),
        (AHEAD, LEVEL, (0.0, 0.1)),  # the baseline had decayed, too
        (AHEAD, LEVEL, (1.0, 1.0)),  # nobody's schedule had ended
        (AHEAD, UNKNOWN, (0.0, 1.0)),
        (LEVEL, LEVEL, (0.0, 1.0)),  # no win
        (BEHIND, LEVEL, (0.0, 1.0)),
        (UNKNOWN, LEVEL, None),
    ],
)
def test_a_win_of_its_own_and_no_win_are_not(
    end: Comparison, before: Comparison | None, at_end: tuple[float, float] | None
) -> None:
    assert won_by_decay("wsd", end, before, at_end) == []


def test_arms_that_saw_other_data_are_named() -> None:
    digests = {"adamw": ["a", "b", "c"], "muon": ["a", "b", "c"], "shorter": ["a"], "shuffled": ["a", "x", "y"]}
    assert other_data("adamw", digests) == ["shuffled saw other data than adamw in 2 of 3 pairs"]
    assert other_data("adamw", {"adamw": ["a"]}) == other_data("adamw", {"adamw": ["a", ""], "muon": ["", "b"]}) == []


def test_arms_of_other_tokens_are_named() -> None:
    assert other_tokens("a", {"a": 8000, "b": 1000, "c": 8000}) == ["b was trained on 1,000 tokens, a on 8,000"]
    assert other_tokens("a", {"b": 1000}) == []


def test_a_baseline_beside_itself_is_named_unless_it_is_level() -> None:
    assert noisy("adamw", LEVEL) == []
    for again, words in ((AHEAD, "better (ratio 0.972)"), (BEHIND, "worse (ratio 1.022)")):
        (said,) = noisy("adamw", again)
        assert said.startswith(f"adamw, tuned and run again with other seeds, is {words} beside itself: ")
    (said,) = noisy("adamw", UNKNOWN)
    assert said.startswith("no noise floor: adamw beside itself cannot be compared: a verdict needs 3 pairs")


def test_schedules_of_which_none_had_decayed_are_named_together() -> None:
    assert none_decayed({"a": 1.0, "b": 0.9}) == ["no schedule had decayed at the budget: at 0.9 to 1 of its peak"]
    assert none_decayed({"a": 1.0}) == ["no schedule had decayed at the budget: at 1 of its peak"]
    assert none_decayed({}) == none_decayed({"a": 1.0, "b": 0.2}) == []


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
        *won_by_decay("wsd", AHEAD, LEVEL),
        *unbeaten("wsd", "a", "b", AHEAD, LEVEL, {}),
        *unbeaten("wsd", "a", "b", AHEAD, LEVEL, {"a": 1.0, "b": 0.0}),
        *none_decayed({"a": 1.0}),
        *other_tokens("a", {"a": 1, "b": 2}),
        *noisy("a", AHEAD),
        *noisy("a", UNKNOWN),
        *other_data("adamw", {"adamw": ["a"], "muon": ["b"]}),
        *diverged("muon", [True]),
    ]
    assert len(every) == 13 and all(said and "\n" not in said and not said.endswith(".") for said in every)
