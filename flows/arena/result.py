"""What a study found, as it is stored and shown: result.json. flows/arena/pages draws it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flows.arena.checkout import own_runs
from flows.arena.diverged_cost import charge_diverged
from flows.arena.outcomes import Outcome
from flows.arena.race import Arm, RaceResult, decide_arm
from flows.arena.statistics.power import POWER, largest_sd, pairs_needed, smallest_ratio
from flows.arena.statistics.ratios import MIN_PAIRS, Comparison
from flows.arena.statistics.sequential import compare_at
from flows.arena.statistics.to_target import Reached, to_target
from flows.arena.study import Study
from flows.arena.study_warnings import warnings_of

TO_TARGET = ("tokens", "flop", "seconds")


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from. threads: of each run."""

    name: str
    commit: str
    machine: str
    date: str
    threads: int
    at_once: int
    command: str


def result_of(study: Study, raced: RaceResult, told: Provenance) -> dict[str, Any]:
    """The result as JSON: the arms with their trials and runs, each beside the baseline, the noise floor, and warnings. Every
    number is finite or null."""
    stage, metric = study.stage_and_metric
    raced = charge_diverged(study, raced)
    base = raced.arms[study.baseline]
    found = next((run for run in (*base.runs.values(), *base.trials) if run.value is not None), None)
    others = [arm for arm in raced.arms.values() if arm is not base]
    every = warnings_of(study, raced)
    return {
        **vars(told),
        "room": study.room,
        "baseline": study.baseline,
        "control": study.control,
        "measure": {"name": metric, "unit": unit_of(metric), "better": study.better, "stage": stage},
        "budget": {study.budget.kind: study.budget.amount},
        "target": study.target,
        "seeds": study.seeds,
        "looks": list(raced.looks),
        "trials": study.trials,
        "parameters": found.parameters if found else None,
        "tokens": found.tokens if found else None,
        "arms": [{**arm_of(study, arm), "warnings": every.get(arm.name, [])} for arm in raced.arms.values()],
        "comparisons": [row for arm in others for row in beside(study, raced, arm)],
        "noise": next(beside(study, raced, raced.again)),
        "power": power(study, raced),
        "warnings": every.get("", []),
    }


def unit_of(metric: str) -> str:
    """The unit of a metric by its name, "" for a share or a count."""
    return "bits/byte" if metric.startswith("bits_per_byte") else "B" if metric.endswith("_bytes") else ""


def arm_of(study: Study, arm: Arm) -> dict[str, Any]:
    """An arm with what its search cost."""
    return {
        "name": arm.name,
        "params": {**study.arms[arm.name], **(arm.best or {})},
        "tune": {name: list(ends) for name, ends in study.ranges(arm.name).items()},
        "trials": [{"number": number, "params": trial.tuned, **run_record(trial)} for number, trial in enumerate(arm.trials)],
        "runs": [
            {
                "seed": run.seed, **run_record(run), "curve": curve(run), **({"flops": list(run.flops)} if run.flops else {}),
                "to_target": vars(there) if there else None,
            }
            for run in (arm.runs[number] for number in sorted(arm.runs))
            for there in [target_reached(study, run)]
        ],
        "search": {name: sum(getattr(trial, name) for trial in arm.trials) for name in ("seconds", "flop")},
    }  # fmt: skip


def run_record(outcome: Outcome) -> dict[str, Any]:
    """The figures of a run. study: for which it was run, where that is known; one that asked for the same has it from there."""
    names = (
        "value", "seconds", "flop", "tokens", "parameters", "layers", "tokens_a_step", "copies", "size_bytes",
        "decays_from", "why", "grows", "study",
    )  # fmt: skip
    return {**{name: getattr(outcome, name) for name in names}, "diverged": outcome.value is None}


def curve(outcome: Outcome) -> list[list[float | None]]:
    """[tokens, seconds, loss] a step; seconds as if every token took as long, None where the model grows."""
    if outcome.grows:
        return [[tokens, None, value] for tokens, value in outcome.curve]
    each = outcome.seconds / max(outcome.tokens, 1)
    return [[tokens, tokens * each, value] for tokens, value in outcome.curve]


def target_reached(study: Study, outcome: Outcome) -> Reached | None:
    """Where the run's curve reached the target; None where it did not, or diverged, or there is none."""
    if study.target is None or outcome.value is None:
        return None
    found = to_target(curve(outcome), study.target, outcome.flop / max(outcome.tokens, 1))
    if found is None:
        return None
    seconds, flop = (None, None) if outcome.grows else (found.seconds, found.flop)
    if outcome.flops:
        flop = float(np.interp(found.tokens, [at for at, _ in outcome.curve], outcome.flops))
    return replace(found, seconds=seconds, flop=flop)


def power(study: Study, raced: RaceResult) -> dict[str, Any] | None:
    """What so many seeds can tell with probability POWER: the ratio nearest to 1, and how many seeds a gain of 1% takes; by the
    spread of the pairs of all arms, of which few pairs show too little: its 80% bound. None where there is no ratio, or where
    no number of seeds would do."""
    each = [decide_arm(study, raced, arm).comparison for arm in raced.arms.values() if arm.name != study.baseline]
    spread = [(one.pairs - 1, one.sd) for one in each if one.scale == "ratio" and one.sd and one.pairs >= MIN_PAIRS]
    if not spread:
        return None
    free = sum(count for count, _ in spread)
    sd = largest_sd(math.sqrt(sum(count * sd**2 for count, sd in spread) / free), free + 1)
    try:
        needed = pairs_needed(0.99, sd, study.level, looks=study.looks)
    except ValueError:
        return None
    smallest = smallest_ratio(study.seeds, sd, study.level, looks=study.looks)
    return {"power": POWER, "ratio": 1 / smallest, "seeds_for_1_percent": needed}


def spent_at_target(study: Study, outcome: Outcome, name: str) -> float | None:
    """What of tokens, FLOP or seconds the run had spent when it reached the target; None where it did not."""
    there = target_reached(study, outcome)
    spent = getattr(there, name) if there else None
    return None if spent is None else float(spent)


def beside(study: Study, raced: RaceResult, arm: Arm) -> Iterator[dict[str, Any]]:
    """The rows of an arm beside the baseline: the measure, then what it took to the target, then seconds of a run."""
    found = decide_arm(study, raced, arm)
    both = raced.pairs(study, arm)
    fixed = {"arm": arm.search, "baseline": study.baseline, "stopped_early": found.stopped_early}
    yield {**fixed, "quantity": "value", **found.comparison.row()}
    grown = [one for pair in both for one in pair if one.grows]
    untold = ["seconds"] * bool(grown) + ["flop"] * any(not one.flops for one in grown)
    for name in [name for name in TO_TARGET if name not in untold] if study.target is not None else []:
        ends = [(spent_at_target(study, one, name), spent_at_target(study, other, name)) for one, other in both]
        said = compare_at(ends, raced.looks, study.level, lost="did not reach the target")
        said = of_one_hour(study, said, both) if name == "seconds" else said
        yield {**fixed, "quantity": f"{name}_to_target", **said.row()}
    ends = [(seconds_of(one), seconds_of(other)) for one, other in both]
    seconds = compare_at(ends, raced.looks, study.level)
    yield {**fixed, "quantity": "seconds", **of_one_hour(study, seconds, both).row()}


def seconds_of(outcome: Outcome) -> float | None:
    """Seconds of the whole run; None of one that diverged on the way."""
    return None if outcome.value is None else outcome.seconds


def of_one_hour(study: Study, said: Comparison, pairs: Sequence[tuple[Outcome, Outcome]]) -> Comparison:
    """The comparison of seconds, without a verdict where the two runs of a pair were made for different studies."""
    apart = any(one.study != other.study for one, other in pairs)
    remedy = "a file of another name runs all of it again" if own_runs(study) else "set timed: true"
    why = f"the arm's runs and the baseline's were made for different studies, at other hours: {remedy}"
    return replace(said, verdict="cannot be compared", why=why) if apart else said
