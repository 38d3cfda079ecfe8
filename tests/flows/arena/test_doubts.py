"""Warnings of a whole study: of the arm that they are of and of no other, and none that is not so."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from flows.arena.outcomes import Outcome
from flows.arena.race import TUNING
from flows.arena.runs import Job
from flows.arena.statistics.flags import ENDED
from flows.arena.study import Study
from flows.arena.study_warnings import warnings_of
from tests.flows.arena.races import losses, raced, study

Change = Callable[[Job, Outcome], Outcome]


def warned(asked: Study, gains: dict[str, float], change: Change = lambda job, made: made) -> dict[str, list[str]]:
    """The warnings of a race with these gains, with every run changed."""
    run = losses(gains, 0.001)
    return warnings_of(asked, raced(asked, lambda job: change(job, run(job))))


def ending_at(**rates: float) -> Change:
    """Runs whose rate ends at this share of its peak, by arm; others at their peak."""
    return lambda job, made: replace(made, rates=(1.0, rates.get(job.arm, 1.0)), decays_from=0.0)


def test_a_control_that_is_no_schedule_takes_no_win_away() -> None:
    """As MinHash is beside a filter of substrings: all of one schedule, which had decayed or had not."""
    asked = study(["keep_all", "substring", "minhash"], room="dedup.near", tune={}, control="minhash")
    for end in (0.0, 1.0):
        ends = ending_at(keep_all=end, substring=end, minhash=end)
        said = warned(asked, {"substring": 0.95, "minhash": 0.9}, ends)["substring"]
        assert len(said) == 1 and said[0].startswith(
            "substring is better than keep_all, not than its control minhash: "
        )
        assert ENDED not in said[0]
        assert warned(asked, {"substring": 0.85, "minhash": 0.9}, ends)["substring"] == []
        assert warned(asked, {"minhash": 0.9}, ends)["substring"] == []


@pytest.mark.parametrize(
    ("end", "is_ended"), [({"fully": 0.0}, True), ({"fully": 0.0, "last": 0.1}, False), ({}, False)]
)
def test_a_control_that_had_decayed_beside_a_baseline_that_had_not_takes_a_win_away(
    end: dict[str, float], is_ended: bool
) -> None:
    asked = study(["last", "ema", "fully"], room="pretrain.average", tune={}, control="fully")
    said = warned(asked, {"ema": 0.95, "fully": 0.95}, ending_at(**end))["ema"]
    expected = (
        "ema wins only because the schedule of last had not ended: beside fully, whose had, no difference (ratio "
    )
    assert any(line.startswith(expected) for line in said) == is_ended
    assert any(ENDED in line for line in said) == is_ended


def test_an_arm_of_other_data_is_named_beside_one_that_is_other_data() -> None:
    """An arm that sets how documents are ordered sees other data by its nature, and nothing else does."""
    asked = study(["adamw", "muon", "lion"], tune={})
    asked.arms["muon"]["curriculum.order"] = {"name": "by_score"}

    def change(job: Job, made: Outcome) -> Outcome:
        return made if job.arm == "adamw" else replace(made, data=f"{job.arm} {job.seed}")

    assert warned(asked, {}, change)[""] == ["lion saw other data than adamw in 5 of 5 pairs"]


def test_arms_that_diverged_saw_no_other_data_and_are_not_equal() -> None:
    """A run that diverged is stored without a value, a curve and the digest of its data."""
    asked = study(["adamw", "muon", "lion"], tune={})

    def change(job: Job, made: Outcome) -> Outcome:
        lost = job.arm != "adamw" and job.seed != TUNING
        return replace(made, value=None, curve=(), data="") if lost else made

    assert warned(asked, {}, change)[""] == []


def test_an_arm_that_sets_data_as_the_baseline_does_is_to_see_the_same() -> None:
    asked = study(["adamw", "muon"], tune={})
    for arm in asked.arms.values():
        arm["curriculum.order"] = {"name": "by_score"}
    change: Change = lambda job, made: replace(made, data=f"{job.arm} {job.seed}")  # noqa: E731
    assert warned(asked, {}, change)[""] == ["muon saw other data than adamw in 5 of 5 pairs"]
    room = study(["shuffled", "by_score"], room="curriculum.order", tune={})
    assert warned(room, {}, change)[""] == []


def test_an_arm_of_fewer_tokens_is_named_beside_the_baselines() -> None:
    def change(job: Job, made: Outcome) -> Outcome:
        return replace(made, tokens=125) if job.arm == "adamw" else made

    asked = study(["adamw", "muon", "lion"], tune={})
    asked.arms["adamw"]["curriculum.tokens"] = 125
    lines = [f"{arm} was trained on 1,000 tokens, adamw on 125" for arm in ("muon", "lion")]
    for budget in ({"tokens": 1000}, {"flop": 1e9}, {"seconds": 10.0}, {"bytes": 5000}):
        given = asked.model_dump() | {"budget": budget}
        assert warned(Study.model_validate(given, strict=False), {}, change)[""] == lines
    raced_by = study(["long", "short"], room="curriculum.tokens", tune={})
    halved: Change = lambda job, made: replace(made, tokens=500) if job.arm == "short" else made  # noqa: E731
    assert warned(raced_by, {}, halved)[""] == []
    of_flop = study(["dense", "wide"], room="pretrain.model", tune={}, budget={"flop": 1e9})
    wide: Change = lambda job, made: replace(made, tokens=500) if job.arm == "wide" else made  # noqa: E731
    assert warned(of_flop, {}, wide)[""] == []


@pytest.mark.parametrize("budget", [{"flop": 1e9}, {"seconds": 10.0}], ids=str)
def test_plans_of_other_lengths_are_no_other_data_where_the_budget_decides_them(budget: dict[str, float]) -> None:
    """An arm of as many tokens as the baseline is still to have its plan."""
    asked = study(["dense", "sparse", "alike"], room="pretrain.model", tune={}, budget=budget)

    def change(job: Job, made: Outcome) -> Outcome:
        tokens = 500 if job.arm == "sparse" else 1000
        data = "other" if job.arm == "alike" else f"{tokens} {job.seed}"
        return replace(made, tokens=tokens, data=data)

    assert warned(asked, {}, change)[""] == ["alike saw other data than dense in 5 of 5 pairs"]


def test_an_arm_that_was_not_tuned_in_what_the_baseline_was_is_named() -> None:
    """A filter that learns has a rate of its own, which is none of the training behind it."""
    rates = {"keep_all": {"pretrain.optimizer.lr": [0.001, 0.1]}, "classifier": {"filter.quality.lr": [0.1, 10.0]}}
    asked = study(["keep_all", "classifier"], room="filter.quality", tune={}, tune_of=rates)
    said = warned(asked, {})["classifier"]
    assert "classifier was not tuned as hard as keep_all: pretrain.optimizer.lr is pinned" in said
    asked.tune_of["classifier"]["pretrain.optimizer.lr"] = (0.001, 0.1)
    assert not [line for line in warned(asked, {})["classifier"] if "pinned" in line and "optimizer" in line]


def test_schedules_none_of_which_had_decayed_are_said_once() -> None:
    asked = study(tune={})
    assert warned(asked, {}, ending_at())[""] == ["no schedule had decayed at the budget: at 1 of its peak"]
    (said,) = warned(asked, {}, ending_at(muon=0.5))[""]
    assert said == "no schedule had decayed at the budget: at 0.5 to 1 of its peak"
    assert warned(asked, {}, ending_at(muon=0.1))[""] == []


def test_a_baseline_that_is_not_level_with_itself_is_said_once() -> None:
    """Seeds from 2,000 on are the second self's."""
    asked = study(tune={})

    def change(job: Job, made: Outcome) -> Outcome:
        assert made.value is not None
        return replace(made, value=1.1 * made.value) if job.seed > 2_000 else made

    (said,) = warned(asked, {}, change)[""]
    assert said.startswith("adamw, tuned and run again with other seeds, is worse (ratio 1.098) beside itself: ")
    (said,) = warned(asked, {}, lambda job, made: replace(made, value=None) if job.seed > 2_000 else made)[""]
    assert said.startswith("no noise floor: adamw beside itself cannot be compared: the arm diverged in 5 of 5 pairs")
