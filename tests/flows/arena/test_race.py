"""A race asks for the same of every arm, goes on after a kill as it would have, and says what is so of runs whose gain is known."""

import json
from collections import Counter
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.arena.outcomes import Outcome
from flows.arena.race import AGAIN, TUNING, decide_arm, race
from flows.arena.result import Provenance, result_of
from flows.arena.runs import Job
from tests.flows.arena.races import RATE, losses, raced, study

TOLD = Provenance("test", "abc", "a machine", "2026-01-01", 1, 2, "tokenmill study")


def verdicts(result: dict) -> dict[str, str]:
    return {row["arm"]: row["verdict"] for row in result["comparisons"] if row["quantity"] == "value"}


def test_every_arm_has_as_many_trials_and_the_seeds_of_the_baseline() -> None:
    asked = study(["adamw", "muon", "lion"], seeds=4)
    jobs: list[Job] = []
    run = losses({}, 0.01)

    def do(some: list[Job]) -> list[Outcome]:
        jobs.extend(some)
        return [run(job) for job in some]

    found = race(asked, do)
    trials = [job for job in jobs if job.seed == asked.seed + TUNING]
    assert {name: sum(job.arm == name for job in trials) for name in asked.arms} == {"adamw": 12, "muon": 6, "lion": 6}
    seeds = {name: {job.seed for job in jobs if job.arm == name} - {TUNING} for name in asked.arms}
    assert seeds["muon"] == seeds["lion"] == {1, 2, 3, 4} and seeds["adamw"] == {
        1,
        2,
        3,
        4,
        *range(AGAIN + 1, AGAIN + 5),
    }
    assert all(arm.best in [trial.tuned for trial in arm.trials] for arm in found.arms.values())


def test_no_two_runs_that_begin_together_have_one_seed() -> None:
    """Of two at once: the first look begins with the baseline and its second self, and so on; the others find their corpus."""
    asked, jobs, run = study(["adamw", "muon", "lion"], seeds=3), [], losses({}, 0.01)

    def do(some: list[Job]) -> list[Outcome]:
        jobs.extend(some)
        return [run(job) for job in some]

    race(asked, do)
    seeds = [job.seed for job in jobs if job.seed != TUNING]
    new = [seed not in seeds[:place] for place, seed in enumerate(seeds)]
    assert all(one != other for one, other, first in zip(seeds, seeds[1:], new, strict=False) if first), seeds


@settings(deadline=None, max_examples=6)
@given(st.integers(0, 40))
def test_a_race_that_was_stopped_asks_for_what_is_left(stop: int) -> None:
    """Whatever was done is known, and the result is that of a race in one go."""
    asked, run = study(), losses({"muon": 0.97}, 0.005)
    whole = result_of(asked, raced(asked, run), TOLD)
    known: dict[str, Outcome] = {}
    done = 0

    class Killed(Exception):
        pass

    def do(jobs: list[Job]) -> list[Outcome]:
        nonlocal done
        for job in jobs:
            if str(job) not in known:
                if done == stop:
                    raise Killed
                done += 1
                known[str(job)] = run(job)
        return [known[str(job)] for job in jobs]

    with suppress(Killed):
        race(asked, do)
    begun, stop = done, 10**9
    assert result_of(asked, race(asked, do), TOLD) == whole
    assert begun <= done == len(known)


def test_the_same_method_under_two_names_ties() -> None:
    """In 95% of 200 races that are cheap, with the search and the looks of a study."""
    asked, found = study(), Counter()
    for salt in range(200):
        race_of = raced(asked, losses({}, 0.004, salt))
        found[decide_arm(asked, race_of, race_of.arms["muon"]).comparison.verdict] += 1
    assert found["no difference"] >= 190, found


def test_a_gain_is_found_and_a_loss_too() -> None:
    asked = study(["adamw", "muon", "lion"])
    result = result_of(asked, raced(asked, losses({"muon": 0.9, "lion": 1.1}, 0.003)), TOLD)
    assert verdicts(result) == {"muon": "better", "lion": "worse"}
    assert result["noise"]["verdict"] == "no difference"
    early = {row["arm"]: row["stopped_early"] for row in result["comparisons"] if row["quantity"] == "value"}
    assert early == {"muon": True, "lion": True}  # so clear a case needs no more than the first look
    assert [len(arm["runs"]) for arm in result["arms"]] == [5, 3, 3]


def test_a_gain_of_one_percent_is_found_by_as_many_seeds_as_a_study_names() -> None:
    """A study of three seeds names a number; nine in ten studies of that many find the gain, and few of three."""
    small = study(tune={}, seeds=3)
    named = result_of(small, raced(small, losses({}, 0.004, 7)), TOLD)["power"]["seeds_for_1_percent"]
    asked = study(tune={}, seeds=named)
    found = [
        verdicts(result_of(asked, raced(asked, losses({"muon": 0.99}, 0.004, salt)), TOLD))["muon"]
        for salt in range(50)
    ]
    few = study(tune={}, seeds=3)
    missed = [
        verdicts(result_of(few, raced(few, losses({"muon": 0.99}, 0.004, salt)), TOLD))["muon"] for salt in range(50)
    ]
    assert found.count("better") >= 45 - 6  # three standard deviations of a binomial of 50
    assert missed.count("better") < 30


@pytest.mark.parametrize(
    ("of_baseline", "of_arm", "said"),
    [
        ({}, {RATE: [0.001, 0.1]}, f"{RATE} is pinned"),
        ({RATE: [0.0095, 0.0105]}, {RATE: [0.001, 0.1]}, f"{RATE} over a factor 1.11, not 100"),
        ({"pretrain.clip": [0.1, 10]}, {RATE: [0.001, 0.1]}, f"{RATE} is pinned"),
        ({RATE: [0.001, 0.1]}, {RATE: [0.001, 0.1], "pretrain.optimizer.adamw_lr": [0.001, 0.1]}, None),
    ],
)
def test_a_baseline_that_was_not_tuned_as_hard_is_said(of_baseline: dict, of_arm: dict, said: str | None) -> None:
    """By what it has of what the arm tuned; a parameter that its method has not is the arm's own."""
    asked = study(tune={}, tune_of={"adamw": of_baseline, "muon": of_arm})
    result = result_of(asked, raced(asked, losses({}, 0.003)), TOLD)
    lines = [line for arm in result["arms"] for line in arm["warnings"] if "was not tuned as hard as muon" in line]
    assert any(said in line for line in lines) if said else not lines, lines


def test_a_run_that_collapses_leaves_a_result_without_a_number_of_seeds() -> None:
    """Pairs whose log ratios have a SD of 5: no number of seeds finds a gain of 1%."""
    asked, run = study(tune={}, seeds=4, better="higher"), losses({}, 0.003)

    def do(job: Job) -> Outcome:
        found = run(job)
        return replace(found, value=0.001) if (job.arm, job.seed) == ("muon", 2) else replace(found, value=0.8)

    assert result_of(asked, raced(asked, do), TOLD)["power"] is None


def test_arms_that_change_nothing_beside_each_other_are_said() -> None:
    asked = study(["adamw", "muon", "lion", "lamb"], tune={})
    run = losses({"lion": 0.95}, 0.003)

    def do(job: Job) -> Outcome:
        return run(replace(job, arm="adamw")) if job.arm in ("muon", "lamb") else run(job)

    found = result_of(asked, raced(asked, do), TOLD)
    assert found["warnings"] == ["adamw, muon and lamb are equal in every run: this study does not tell them apart"]
    apart = result_of(asked, raced(asked, losses({}, 0.003)), TOLD)
    assert apart["warnings"] == []


def test_an_arm_beyond_a_budget_of_bytes_is_said() -> None:
    """Runs here take 2000 bytes of weights."""
    said = {}
    for size in (1999, 2000):
        asked = study(budget={"bytes": size}, tune={})
        result = result_of(asked, raced(asked, losses({"muon": 0.9}, 0.003)), TOLD)
        said[size] = [line for arm in result["arms"] for line in arm["warnings"] if "bytes" in line]
    assert said == {1999: ["takes 2,000 bytes of weights, and the budget is 1,999"] * 2, 2000: []}


def test_a_target_of_an_arm_whose_model_grows_has_tokens_and_flop_and_no_seconds() -> None:
    """FLOP between two points of its curve; a result of before, without those, has none."""
    asked, run = study(tune={}, target=1e9), losses({}, 0.003)

    def grown(job: Job, told: bool) -> Outcome:
        made = run(job)
        if job.arm != "muon":
            return made
        flops = tuple(0.1 * made.flop * at / made.tokens for at, _ in made.curve)
        return replace(made, grows=True, flops=flops if told else ())

    for told in (True, False):
        result = result_of(asked, raced(asked, lambda job, told=told: grown(job, told)), TOLD)
        there = result["arms"][1]["runs"][0]["to_target"]
        first = result["arms"][1]["runs"][0]["curve"][0][0]
        share = first / result["arms"][1]["runs"][0]["tokens"]
        flop = pytest.approx(0.1 * share * result["arms"][1]["runs"][0]["flop"]) if told else None
        assert there == {"tokens": first, "seconds": None, "flop": flop}
        rows = {row["quantity"] for row in result["comparisons"]}
        assert {"tokens_to_target"} | ({"flop_to_target"} if told else set()) == {r for r in rows if "target" in r}
        assert ("flops" in result["arms"][1]["runs"][0]) == told and "flops" not in result["arms"][0]["runs"][0]
        json.dumps(result, allow_nan=False)


def test_an_arm_whose_model_grows_is_said_to_have_no_curve_over_seconds() -> None:
    asked, run = study(tune={}), losses({}, 0.003)
    result = result_of(asked, raced(asked, lambda job: replace(run(job), grows=job.arm == "muon")), TOLD)
    said = {arm["name"]: [line for line in arm["warnings"] if "its model grows" in line] for arm in result["arms"]}
    assert {name: len(lines) for name, lines in said.items()} == {"adamw": 0, "muon": 1}
    assert {run["grows"] for run in result["arms"][1]["runs"]} == {True}


def test_a_best_at_the_edge_of_its_range_is_said() -> None:
    asked = study(tune={RATE: [0.00001, 0.0001]})
    result = result_of(asked, raced(asked, losses({}, 0.0001)), TOLD)
    assert any("lies at the edge" in line for line in result["arms"][0]["warnings"])


def test_a_method_that_wins_because_its_schedule_ended_is_called_so() -> None:
    """Before its decay it is no better, and the baseline has none."""
    asked, run = study(["constant", "decayed"]), losses({"decayed": 0.9}, 0.001)

    def ended(job: Job) -> Outcome:
        found = run(job)
        late = found.value
        assert late is not None
        same = 2.5 + 0.001 * (job.seed % 3)
        curve = tuple((100.0 * step, same + 3.0 / step if step < 9 else late) for step in range(1, 11))
        rates, start = ((1.0, 0.0), 700.0) if job.arm == "decayed" else ((1.0, 1.0), 0.0)
        return replace(found, curve=curve, rates=rates, decays_from=start)

    result = result_of(asked, raced(asked, ended), TOLD)
    said = next(arm["warnings"] for arm in result["arms"] if arm["name"] == "decayed")
    assert verdicts(result)["decayed"] == "better"
    assert any("wins only because its schedule ended" in line for line in said)


def test_an_arm_that_diverges_is_counted_and_loses_nothing_of_the_others() -> None:
    asked, run = study(["adamw", "muon", "lion"]), losses({"muon": 0.9}, 0.003)

    def do(job: Job) -> Outcome:
        return replace(run(job), value=None, why="pretrain: step 3: the loss is nan") if job.arm == "lion" else run(job)

    result = result_of(asked, raced(asked, do), TOLD)
    assert verdicts(result) == {"muon": "better", "lion": "cannot be compared"}
    said = next(arm["warnings"] for arm in result["arms"] if arm["name"] == "lion")
    assert any("6 of 6 tuning trials" in line for line in said)


def test_a_target_that_no_arm_reaches_is_said() -> None:
    result = result_of(study(target=0.5), raced(study(target=0.5), losses({"muon": 0.9}, 0.003)), TOLD)
    rows = [row for row in result["comparisons"] if row["quantity"] == "tokens_to_target"]
    assert [row["verdict"] for row in rows] == ["cannot be compared"] and "did not reach the target" in rows[0]["why"]


def test_higher_is_better_where_it_is_said() -> None:
    asked = study(better="higher", measure="evaluate@rl.accuracy")
    result = result_of(asked, raced(asked, losses({"muon": 1.1}, 0.003)), TOLD)
    assert verdicts(result) == {"muon": "better"}
