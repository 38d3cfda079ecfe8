"""What a study found, as it is stored and shown: result.json. flows/arena/pages draws it."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from flows.arena.outcomes import Outcome
from flows.arena.race import Arm, Raced
from flows.arena.statistics.flags import flags_of
from flows.arena.statistics.ratios import Comparison, compare
from flows.arena.statistics.to_target import reached
from flows.arena.study import Study

QUANTITIES = ("tokens", "flop", "seconds")  # to a target


@dataclass(frozen=True)
class Told:
    """What a result says of where it comes from. threads: of each run."""

    name: str
    commit: str
    machine: str
    date: str
    threads: int
    at_once: int


def result_of(study: Study, raced: Raced, told: Told) -> dict[str, Any]:
    """The result as JSON: the arms with their trials and runs, each arm beside the baseline, the noise floor, and warnings. Every
    number is finite or null."""
    stage, metric = study.stage_and_metric
    base = raced.arms[study.baseline]
    found = next(iter(base.runs.values()), None) or next(iter(base.trials), None)
    return {
        **vars(told),
        "room": study.room,
        "baseline": study.baseline,
        "control": study.control,
        "measure": {"name": metric, "unit": unit_of(metric), "better": study.better, "stage": stage},
        "budget": {study.budget.kind: study.budget.amount},
        "target": study.target,
        "seeds": study.seeds,
        "trials": study.trials,
        "parameters": found.parameters if found else None,
        "tokens": found.tokens if found else None,
        "arms": [arm_of(study, arm) for arm in raced.arms.values()],
        "comparisons": [row for arm in raced.arms.values() if arm is not base for row in beside(study, raced, arm, base)],
        "noise": next(beside(study, raced, raced.again, base), None),
        "warnings": flags_of(study, raced),
    }


def unit_of(metric: str) -> str:
    """The unit of a metric by its name, "" for a share or a count."""
    return "bits/byte" if metric.startswith("bits_per_byte") else "B" if metric.endswith("_bytes") else ""


def arm_of(study: Study, arm: Arm) -> dict[str, Any]:
    """An arm with what its search cost."""
    return {
        "name": arm.name,
        "params": {**study.arms[arm.name], **(arm.best or {})},
        "ranges": {name: list(ends) for name, ends in study.ranges(arm.name).items()},
        "trials": [
            {"number": number, "params": trial.tuned, **plain(trial)} for number, trial in enumerate(arm.trials)
        ],
        "runs": [
            {"seed": trial.seed, **plain(trial), "curve": curve(trial), "to_target": to_target(study, trial)}
            for _, trial in sorted(arm.runs.items())
        ],
        "search": {
            "seconds": sum(trial.seconds for trial in arm.trials),
            "flop": sum(trial.flop for trial in arm.trials),
        },
    }


def plain(outcome: Outcome) -> dict[str, Any]:
    """The figures of a run."""
    return {
        "value": outcome.value,
        "seconds": outcome.seconds,
        "flop": outcome.flop,
        "tokens": outcome.tokens,
        "size_bytes": outcome.size_bytes,
        "diverged": outcome.value is None,
        "why": outcome.why,
    }


def curve(outcome: Outcome) -> list[list[float]]:
    """[tokens, seconds, loss] a step; seconds as if every token took as long."""
    each = outcome.seconds / max(outcome.tokens, 1)
    return [[tokens, tokens * each, value] for tokens, value in outcome.curve]


def to_target(study: Study, outcome: Outcome) -> dict[str, float] | None:
    """Tokens, FLOP and seconds after which the smoothed curve is at the target; None where it never is, or there is none."""
    if study.target is None or outcome.value is None:
        return None
    tokens = reached(outcome.curve, study.target)
    if tokens is None:
        return None
    share = tokens / max(outcome.tokens, 1)
    return {"tokens": tokens, "flop": share * outcome.flop, "seconds": share * outcome.seconds}


def beside(study: Study, raced: Raced, arm: Arm, base: Arm) -> Iterator[dict[str, Any]]:
    """The rows of an arm beside the baseline: the measure, then what it took to the target, then seconds of a run."""
    pairs = sorted(arm.runs.keys() & base.runs.keys())
    both = [(arm.runs[n], base.runs[n]) for n in pairs]
    look, looks = raced.looks.get(arm.search, (1, 1))

    def row(quantity: str, found: Comparison) -> dict[str, Any]:
        return {
            "arm": arm.name, "baseline": base.name, "quantity": quantity, **found.row(), "stopped_early": look < looks,
        }  # fmt: skip

    yield row("value", compare([(a.value, b.value) for a, b in both], study.level, study.better))
    for quantity in QUANTITIES if study.target is not None else ():
        ends = [[(to_target(study, run) or {}).get(quantity) for run in pair] for pair in both]
        yield row(f"{quantity}_to_target", compare([(a, b) for a, b in ends], study.level, lost="did not reach the target"))
    yield row("seconds", compare([(a.seconds, b.seconds) for a, b in both], study.level))


def typical(values: list[float]) -> float:
    """The median, 0.0 of none."""
    return median(values) if values else 0.0
