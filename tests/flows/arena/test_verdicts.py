"""A verdict is computed from a study: by the interval, by what was expected, by the control, and never by what is typed."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.arena.statistics.flags import unbeaten
from flows.arena.statistics.ratios import compare
from flows.arena.statistics.sequential import compare_at
from flows.arena.verdicts import Claim, Expected, beside_control, by_difference, by_interval, claims_of, verdict_of
from lm.config import ConfigError

AHEAD = compare([(0.97, 1.0), (0.975, 1.0), (0.972, 1.0), (0.971, 1.0)])
LEVEL = compare([(1.01, 1.0), (1.0, 1.01), (1.005, 1.0), (1.0, 1.005)])
GAIN, MARGIN = Expected(ratio=0.97), Expected(ratio=1.01)


def claim(**more: Any) -> Claim:
    values = {
        "room": "pretrain.optimizer",
        "method": {"name": "muon"},
        "source": "a paper",
        "headline": "faster",
        "study": "optimizers",
    }
    return Claim.model_validate({**values, "expects": {"ratio": 0.97}, **more})


def result(values: dict[str, list[float | None]], **row: Any) -> dict[str, Any]:
    """A study's result, as far as a verdict looks at it."""
    arms = [
        {"name": name, "warnings": [], "runs": [{"seed": seed, "value": value} for seed, value in enumerate(each)]}
        for name, each in values.items()
    ]
    said = {
        "arm": "muon",
        "quantity": "value",
        "ratio": 0.95,
        "t": [0.94, 0.96],
        "bootstrap": [0.945, 0.955],
        "verdict": "better",
        "why": "",
        "level": 0.98,
        "pairs": len(values["muon"]),
    }
    measure = {"better": "lower"}
    return {
        "arms": arms, "comparisons": [{**said, **row}], "baseline": "adamw", "looks": [3, 5], "measure": measure,
    }  # fmt: skip


PAIRS: dict[str, list[float | None]] = {"adamw": [2.0, 2.1, 2.2, 2.3, 2.4], "muon": [1.9, 2.0, 2.08, 2.19, 2.27]}


@pytest.mark.parametrize(
    ("expected", "ratio", "t", "verdict"),
    [
        (GAIN, 0.95, (0.94, 0.96), "shown"),
        (GAIN, 0.97, (0.95, 0.99), "shown"),
        (GAIN, 0.99, (0.98, 0.995), "not shown at this size"),  # better, by less than would show it
        (GAIN, 0.97, (0.93, 1.01), "not shown at this size"),
        (GAIN, 1.02, (1.01, 1.03), "contradicted"),
        (MARGIN, 1.0, (0.995, 1.005), "shown"),
        (MARGIN, 1.0, (0.98, 1.02), "not shown at this size"),
        (MARGIN, 1.03, (1.02, 1.04), "contradicted"),
        (Expected(ratio=1.05, better="higher"), 1.07, (1.03, 1.09), "shown"),
        (Expected(ratio=1.05, better="higher"), 0.9, (0.8, 0.95), "contradicted"),
        (Expected(ratio=0.99, better="higher"), 1.0, (0.995, 1.005), "shown"),
    ],
)
def test_by_interval(expected: Expected, ratio: float, t: tuple[float, float], verdict: str) -> None:
    assert by_interval(expected, ratio, t, t)[0] == verdict


def test_percentages_are_of_the_baselines_value() -> None:
    half, third = (0.4, 0.6), (0.3, 0.4)
    assert by_interval(Expected(ratio=1.05, better="higher"), 0.5, half, half)[1] == "worse by 50.0%"
    assert by_interval(Expected(ratio=0.5), 2.0, (1.8, 2.2), (1.8, 2.2))[1] == "worse by 100.0%"
    assert by_interval(Expected(ratio=0.2), 0.35, third, third)[1] == "better by 65.0%, where 80.0% would show it"
    said = by_interval(Expected(ratio=4.0, better="higher"), 2.0, (1.5, 3.0), (1.5, 3.0))[1]
    assert said == "better by 100.0%, where 300.0% would show it"
    said = by_interval(Expected(ratio=0.99, better="higher"), 1.0, (0.95, 1.02), (0.95, 1.02))[1]
    assert said == "may be worse by up to 5.0%, and 1.0% were allowed"


@given(st.floats(0.5, 2), st.floats(1.001, 1.5), st.floats(1.001, 1.5), st.sampled_from([0.9, 0.99, 1.01, 1.1]))
def test_higher_is_lower_turned_round_and_the_wider_interval_counts(
    ratio: float, t: float, wide: float, expected: float
) -> None:
    narrow, other = (ratio / t, ratio * t), (ratio / wide, ratio * wide)
    inverse = [(1 / high, 1 / low) for low, high in (narrow, other)]
    one = by_interval(Expected(ratio=expected), ratio, narrow, other)[0]
    assert one == by_interval(Expected(ratio=1 / expected, better="higher"), 1 / ratio, *inverse)[0]
    assert one == by_interval(Expected(ratio=expected), ratio, other, narrow)[0]
    if one == "shown" and expected < 1:
        assert max(narrow[1], other[1]) < 1


def test_what_a_control_does_as_well_is_not_shown() -> None:
    values = {**PAIRS, "random": PAIRS["muon"]}
    assert verdict_of("muon", claim(), result(PAIRS)) == ("shown", "")
    verdict, why = verdict_of("muon", claim(control="random"), result(values))
    assert verdict == "not shown at this size" and "its control random" in why
    assert verdict_of("muon", claim(control="random"), result({**PAIRS, "random": PAIRS["adamw"]}))[0] == "shown"


def test_an_arm_that_is_its_baseline_shows_nothing_and_twins_are_named() -> None:
    base = PAIRS["adamw"]
    same = result({"adamw": base, "muon": [1e-12 + value for value in base if value]}, ratio=1 - 1e-13, t=[1.0, 1.0])
    assert verdict_of("muon", claim(), same) == (
        "not shown at this size",
        "its value is the baseline's in every run: it finds nothing here to act on",
    )
    twins = result({**PAIRS, "normuon": PAIRS["muon"][:3], "soap": [1.9, 2.0, 2.1], "lion": [None, 2.0, 2.08]})
    assert verdict_of("muon", claim(), twins) == ("shown", "with the value of normuon in every run")
    assert verdict_of("muon", claim(), result(PAIRS)) == ("shown", "")


def test_a_control_is_beaten_at_the_level_and_looks_of_the_study() -> None:
    """Log ratios of -0.1% with a SD of 0.07%: at 95% and one look that is better, not so at 98% and two."""
    apart = (11e-4, -6e-4, -2e-4, 2e-4, -5e-4)
    control = [muon / (1 - 0.001 + off) for muon, off in zip((1.9, 2.0, 2.08, 2.19, 2.27), apart, strict=True)]
    found = result({**PAIRS, "random": control})
    assert beside_control(found, "muon", "random", 0.98).verdict == "no difference"
    assert beside_control({**found, "looks": [5]}, "muon", "random", 0.95).verdict == "better"
    assert verdict_of("muon", claim(control="random"), found)[0] == "not shown at this size"


def test_a_winner_by_its_schedule_is_not_shown() -> None:
    found = result(PAIRS)
    found["arms"][1]["warnings"] = ["muon wins only because its schedule ended: before its decay no difference"]
    assert verdict_of("muon", claim(), found)[0] == "not shown at this size"


def test_a_study_s_control_decides_of_the_claims_that_name_it_alone() -> None:
    found = result({**PAIRS, "random": PAIRS["muon"]})
    found["arms"][1]["warnings"] = unbeaten("muon", "adamw", "random", AHEAD, LEVEL, {})
    assert verdict_of("muon", claim(), found) == ("shown", "with the value of random in every run")
    assert verdict_of("muon", claim(control="random"), found) == (
        "not shown at this size",
        "no better than its control random: no difference",
    )


BASE = [0.0, 0.3, 0.29, 0.31, 0.3, 0.28, 0.32, 0.3, 0.3, 0.3]  # accuracies, one of them 0


@pytest.mark.parametrize(
    ("ratio", "gains", "verdict", "why"),
    [
        (1.2, [0.3, 0.31, 0.29, 0.3, 0.3], "shown", "by differences, 0.3, t 0.29"),
        (
            1.2,
            [0.015, 0.01, 0.015, 0.015, 0.01],
            "not shown at this size",
            "better by 0.013, where 20.0% of 0.27 would",
        ),
        (1.2, [0.01, -0.01, 0.0, 0.01, -0.01], "not shown at this size", "the interval holds 0; by differences"),
        (1.2, [-0.3, -0.31, -0.29, -0.3, -0.3], "contradicted", "worse by 0.3; by differences"),
        (0.9, [0.3, 0.31, 0.29, 0.3, 0.3], "shown", "by differences"),
        (0.9, [-0.3, -0.31, -0.29, -0.3, -0.3], "contradicted", "worse by more than the 10.0% of 0.27 that were"),
        (0.9, [-0.02, -0.03, -0.025, -0.04, -0.02], "not shown at this size", "may be worse by up to 0.03"),
        (0.9, [-0.001, 0.0, 0.0, 0.0, 0.0], "shown", "by differences"),
    ],
)
def test_an_accuracy_that_is_0_in_a_run_is_judged_by_differences(
    ratio: float, gains: list[float], verdict: str, why: str
) -> None:
    """A claim of 1.2 is of a fifth of the baseline's accuracy, 0.054 in the mean; a margin of 0.9 of a tenth."""
    pairs = [(base + gain, base) for base, gain in zip(BASE, [*gains, *gains], strict=True)]
    row = compare_at(pairs, [10], 0.98, "higher").row()
    found = result({"adamw": [base for _, base in pairs], "muon": [arm for arm, _ in pairs]}, **row)
    found["looks"] = [10]
    said = verdict_of("muon", claim(expects={"ratio": ratio, "better": "higher"}), found)
    assert said[0] == verdict and said[1].startswith(why), said


def test_lower_by_differences() -> None:
    values = [1.0, 1.2, 0.8, 0.5, 1.0]
    ahead = [(value - 0.5, value) for value in values]
    behind = [(value, value - 0.5) for value in values]
    for pairs, verdict in ((ahead, "shown"), (behind, "contradicted")):
        for expected in (GAIN, MARGIN):
            assert by_difference(expected, pairs, [3, 5], 0.98)[0] == verdict


def test_too_few_pairs_and_pairs_of_a_run_that_diverged_have_no_verdict_by_differences() -> None:
    for pairs in ([(0.3, 0.0), (0.3, 0.1)], [(0.3, 0.0), (0.3, 0.1), (None, 0.1), (0.4, 0.0), (0.4, 0.0)]):
        row = compare_at(pairs, [3, 5], 0.98, "higher").row()
        found = result({"adamw": [base for _, base in pairs], "muon": [arm for arm, _ in pairs]}, **row)
        said = verdict_of("muon", claim(expects={"ratio": 1.2, "better": "higher"}), found)
        assert said == ("not shown at this size", row["why"])


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize(("apart", "verdict"), [(0.010, "not shown at this size"), (0.080, "contradicted")])
def test_an_arm_that_diverged_is_not_shown_to_lie_within_a_margin(lost: int, apart: float, verdict: str) -> None:
    """Worse by 1% in the pairs that it ended, where 3.5% are allowed: of those that it lost nothing is known."""
    base = [1.0, 1.01, 0.99, 1.005, 0.995]
    arm: list[float | None] = [value * (1 + apart) + 1e-4 * number for number, value in enumerate(base)]
    margin = claim(expects={"ratio": 1.035})
    whole = compare_at(list(zip(arm, base, strict=True)), [3, 5], 0.98).row()
    assert verdict_of("muon", margin, result({"adamw": [*base], "muon": arm}, **whole))[0] in ("shown", "contradicted")
    arm[-lost:] = [None] * lost
    row = compare_at(list(zip(arm, base, strict=True)), [3, 5], 0.98).row()
    assert row["verdict"] == "worse"
    said = verdict_of("muon", margin, result({"adamw": [*base], "muon": arm}, **row))
    assert said[0] == verdict and (verdict == "contradicted" or said[1] == f"the arm diverged in {lost} of 5 pairs")


def test_a_quantity_beside_the_value_is_not_judged_by_the_value() -> None:
    """Seconds of arms whose values are equal are no sign that a method does nothing; a control is beaten by the measure."""
    seconds = {"quantity": "seconds", "ratio": 0.5, "t": [0.49, 0.51], "bootstrap": [0.49, 0.51]}
    faster = claim(quantity="seconds", expects={"ratio": 0.7})
    equal = result({"adamw": PAIRS["adamw"], "muon": PAIRS["adamw"]}, **seconds)
    assert verdict_of("muon", faster, equal) == ("shown", "")
    beside = claim(quantity="seconds", expects={"ratio": 0.7}, control="random")
    for better, verdict in (("higher", "not shown at this size"), ("lower", "shown")):
        found = result({**PAIRS, "random": PAIRS["adamw"]}, **seconds)
        found["measure"]["better"] = better
        assert verdict_of("muon", beside, found)[0] == verdict


def test_what_cannot_be_compared_or_held_is_said() -> None:
    lost = result(
        PAIRS, ratio=None, t=None, bootstrap=None, verdict="cannot be compared", why="the arm diverged in 5 of 5 pairs"
    )
    assert verdict_of("muon", claim(), lost) == ("not shown at this size", "the arm diverged in 5 of 5 pairs")
    assert verdict_of("muon", claim(study=None, expects=None, cannot="needs ranks"), None) == (
        "cannot be shown here",
        "needs ranks",
    )


def test_a_quantity_or_a_control_that_a_study_has_not_is_one_line() -> None:
    with pytest.raises(ConfigError, match="compares no seconds_to_target of it .it has: muon value"):
        verdict_of("muon", claim(quantity="seconds_to_target"), result(PAIRS))
    with pytest.raises(ConfigError, match="has no arm 'randm' .arms: adamw, muon"):
        verdict_of("muon", claim(control="randm"), result(PAIRS))


def test_a_claim_that_is_none_is_one_line_that_names_it() -> None:
    with pytest.raises(ConfigError) as caught:
        claims_of({"muon": {"room": "x"}, "lion": {**claim().model_dump(), "cannot": "both"}}, "claims.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 2 and lines[0].startswith("claims.yaml: muon: ") and lines[1].startswith("claims.yaml: lion: ")
    with pytest.raises(ConfigError, match="claims.yaml: holds no claims by name"):
        claims_of(["muon"], "claims.yaml")
