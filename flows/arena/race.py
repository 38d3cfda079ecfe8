"""The race: every arm is tuned by the same number of trials, then runs at its best with seeds that all arms share.

What is asked next follows from the outcomes so far alone, so a study that was killed goes on as it would have.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flows.arena.outcomes import Outcome
from flows.arena.runs import Job
from flows.arena.search import best, proposals
from flows.arena.study import Study

# Seeds of the pipeline, beside the study's own: of trials, and of the baseline's second self. Runs have the ones from 1 on.
TUNING, AGAIN = 1_000, 2_000
# Whoever does the jobs, in any order, and gives their outcomes in that of the jobs.
Runner = Callable[[Sequence[Job]], list[Outcome]]
# (values of an arm, values of the baseline, look, of looks) -> whether more pairs would say nothing else
Clear = Callable[[list[float | None], list[float | None], int, int], bool]


@dataclass
class Arm:
    """An arm of a race. name: in the study. search: by which its proposals are drawn. trials: in the order of the proposals.
    best: what was tuned, at its best, None where every trial diverged. runs: by the number of their seed, from 1 on."""

    name: str
    search: str
    offset: int = 0
    params: list[dict[str, float]] = field(default_factory=list)
    trials: list[Outcome] = field(default_factory=list)
    best: dict[str, float] | None = None
    runs: dict[int, Outcome] = field(default_factory=dict)

    def job(self, study: Study, tuned: dict[str, float], seed: int) -> Job:
        """A run of this arm."""
        return Job(self.name, tuned, seed, study.assignments(self.name, tuned, seed))


@dataclass(frozen=True)
class Raced:
    """The arms of a study by name, all trials and runs done, and the baseline's second self: tuned anew, with seeds of its
    own, so that it differs from the baseline as two methods would that are the same. looks: by name, the look at which the
    arm was clear, and of how many."""

    arms: dict[str, Arm]
    again: Arm
    looks: dict[str, tuple[int, int]]


def race(study: Study, do: Runner, clear: Clear) -> Raced:
    """Tune, then run in looks: after each, an arm that is clear beside the baseline ends; the baseline goes on with the last."""
    arms = {name: Arm(name, name) for name in study.arms}
    again = Arm(study.baseline, f"{study.baseline} again", AGAIN)
    everyone = [*arms.values(), again]
    tune(study, everyone, do)
    looks: dict[str, tuple[int, int]] = {}
    base = arms[study.baseline]
    numbers = pairs_at(study.seeds, study.looks)
    for look, pairs in enumerate(numbers, 1):
        going = [arm for arm in everyone if arm is not base and arm.search not in looks and arm.best is not None]
        if base.best is None or not going:
            break
        lead(study, [base, *going], pairs, do)
        for arm in going:
            pair = [[runner.runs[n].value for n in range(1, pairs + 1)] for runner in (arm, base)]
            if look == len(numbers) or (arm is not again and clear(pair[0], pair[1], look, len(numbers))):
                looks[arm.search] = look, len(numbers)
    return Raced(arms, again, looks)


def tune(study: Study, arms: Sequence[Arm], do: Runner) -> None:
    """Do the trials of all arms, side by side, and take note of the best of each."""
    seed = study.seed + TUNING
    while True:
        asked: list[tuple[Arm, Job]] = []
        for arm in arms:
            told = [trial.value if trial.value is None or study.better == "lower" else -trial.value for trial in arm.trials]
            arm.params = proposals(study.ranges(arm.name), study.trials, study.seed, arm.search, told)
            asked += [(arm, arm.job(study, tuned, seed)) for tuned in arm.params[len(arm.trials) :]]
        if not asked:
            break
        for (arm, _), outcome in zip(asked, do([job for _, job in asked]), strict=True):
            arm.trials.append(outcome)
    for arm in arms:
        values = [trial.value if trial.value is None or study.better == "lower" else -trial.value for trial in arm.trials]
        arm.best = best(arm.params, values)


def lead(study: Study, arms: Sequence[Arm], pairs: int, do: Runner) -> None:
    """Have every arm run with the first so many seeds."""
    asked = [
        (arm, number, arm.job(study, arm.best or {}, study.seed + arm.offset + number))
        for number in range(1, pairs + 1)
        for arm in arms
        if number not in arm.runs
    ]
    for (arm, number, _), outcome in zip(asked, do([job for *_, job in asked]), strict=True):
        arm.runs[number] = outcome


def pairs_at(seeds: int, looks: int) -> list[int]:
    """How many pairs there are at each look, rising, the last time all; none has fewer than 3 unless there are fewer in all."""
    least = min(3, seeds)
    found = {max(least, math.ceil(seeds * look / looks)) for look in range(1, looks + 1)}
    return sorted(found)
