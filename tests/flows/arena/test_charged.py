"""A run that diverged has cost what it had spent until then, in the search's cost and in the page's."""

from dataclasses import replace

import pytest

from flows.arena.outcomes import Outcome
from flows.arena.race import TUNING
from flows.arena.result import Provenance, result_of
from flows.arena.runs import Job
from tests.flows.arena.races import RATE, losses, raced, study

TOLD = Provenance("test", "abc", "a machine", "2026-01-01", 1, 2, "tokenmill study")
FAILED = "pretrain: step 20: the loss is nan"


def lost(job: Job, why: str = FAILED) -> Outcome:
    """A run that diverged, as it is stored."""
    return Outcome("", job.arm, job.tuned, job.seed, None, why=why)


@pytest.mark.parametrize(
    ("why", "share"),
    [
        (FAILED, 0.2),
        ("evaluate@pretrain: step 20: the loss is nan", 1.0),
        ("gone", 1.0),
        ("pretrain: step 900: x", 1.0),
    ],
)
def test_a_trial_that_diverged_costs_what_it_had_spent(why: str, share: float) -> None:
    """Runs here take 100 steps of 10 tokens, 10 seconds and 1e9 FLOP."""
    asked, run = study(trials=4), losses({}, 0.003)

    def do(job: Job) -> Outcome:
        if job.arm == "muon" and job.seed == TUNING and job.tuned[RATE] > 0.03:
            return lost(job, why)
        return replace(run(job), tokens_a_step=10)

    plain, muon = result_of(asked, raced(asked, do), TOLD)["arms"]
    count = sum(trial["diverged"] for trial in muon["trials"])
    assert 0 < count < 4
    assert plain["search"] == {"seconds": 40.0, "flop": 4e9}
    done = 4 - count + share * count
    assert muon["search"] == {"seconds": pytest.approx(10 * done), "flop": pytest.approx(1e9 * done)}
    assert {trial["tokens"] for trial in muon["trials"] if trial["diverged"]} == {round(1000 * share)}


def test_an_arm_of_which_no_run_ended_costs_what_the_baselines_do_and_without_one_the_budget() -> None:
    asked, run = study(tune={}), losses({}, 0.003)
    done = [lambda job: lost(job, "gone") if job.arm == "muon" else run(job), lambda job: lost(job, "gone")]
    costs = [result_of(asked, raced(asked, do), TOLD)["arms"][1]["trials"][0] for do in done]
    assert [(cost["tokens"], cost["flop"], cost["seconds"]) for cost in costs] == [(1000, 1e9, 10.0), (1000, 0, 0)]


def test_seconds_of_a_run_that_diverged_are_compared_with_none() -> None:
    asked, run = study(tune={}), losses({}, 0.003)
    do = lambda job: lost(job) if (job.arm, job.seed) == ("muon", 2) else run(job)  # noqa: E731
    rows = result_of(asked, raced(asked, do), TOLD)["comparisons"]
    (seconds,) = [row for row in rows if row["quantity"] == "seconds"]
    assert seconds["ratio"] == 1.0 and seconds["pairs"] == 4


def test_a_study_whose_first_run_diverged_says_what_the_others_were() -> None:
    asked, run = study(tune={}), losses({}, 0.003)
    result = result_of(asked, raced(asked, lambda job: lost(job) if job.seed == 1 else run(job)), TOLD)
    assert (result["parameters"], result["tokens"]) == (500, 1000)
    none = result_of(asked, raced(asked, lost), TOLD)
    assert (none["parameters"], none["tokens"]) == (None, None)
