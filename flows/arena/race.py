"""The race: every arm is tuned by the same number of trials, then runs at its best with seeds that all arms share.

What is asked next follows from the outcomes so far alone, so a study that was killed goes on as it would have.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flows.arena.outcomes import Outcome
from flows.arena.runs import Job
from flows.arena.search import best, proposals
from flows.arena.statistics.sequential import Decision, decide, planned_looks
from flows.arena.study import Study

# Seeds of the pipeline, beside the study's own: of trials, and of the baseline's second self. Runs have the ones from 1 on.
TUNING, AGAIN = 1_000, 2_000
# Whoever does the jobs, in any order, and gives their outcomes in that of the jobs.
Runner = Callable[[Sequence[Job]], list[Outcome]]


@dataclass
class Arm:
    """An arm of a race. name: in the study. search: by which it is known among the arms. offset: of its seeds. trials: in
    the order of the proposals. best: what was tuned, at its best, None where every trial diverged. runs: by the number of
    their seed, from 1 on."""

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
class RaceResult:
    """The arms of a study by name, all trials and runs done, and the baseline's second self. looks: counts of pairs at which it
    was asked whether a case is clear.

    The second self is tuned anew and runs with seeds of its own, so its pairs have no seed in common: they differ by the luck
    of two seeds beside the noise of a run, as two methods that are the same would at most, whose pairs share a seed.
    """

    arms: dict[str, Arm]
    again: Arm
    looks: tuple[int, ...]

    def pairs(self, study: Study, arm: Arm) -> list[tuple[Outcome, Outcome]]:
        """(arm, baseline) of each number of a seed that both have run, in their order; of the second self the seeds behind one
        number are two."""
        base = self.arms[study.baseline]
        return [(arm.runs[number], base.runs[number]) for number in sorted(arm.runs.keys() & base.runs.keys())]


def race(study: Study, do: Runner) -> RaceResult:
    """Tune, then run in looks: an arm that is better or worse than the baseline at one ends there, the baseline with the
    last. Its second self runs with every seed."""
    arms = {name: Arm(name, name) for name in study.arms}
    again = Arm(study.baseline, f"{study.baseline} again", AGAIN)
    tune(study, [*arms.values(), again], do)
    raced = RaceResult(arms, again, planned_looks(study.seeds, study.looks))
    base = arms[study.baseline]
    # the second self right behind its first: of runs that go on side by side, two of one seed would each make its corpus
    going = [arm for arm in [again, *arms.values()] if arm is not base and arm.best is not None]
    for pairs in raced.looks if base.best is not None else ():
        if going:
            run_seeds(study, [base, *going], pairs, do)
        going = [arm for arm in going if arm is again or not decide_arm(study, raced, arm).stop]
    return raced


def decide_arm(study: Study, raced: RaceResult, arm: Arm) -> Decision:
    """Whether the arm's pairs so far are clear, and what they say."""
    values = [(one.value, other.value) for one, other in raced.pairs(study, arm)]
    return decide(values, raced.looks, study.level, study.better)


def tune(study: Study, arms: Sequence[Arm], do: Runner) -> None:
    """Do the trials of all arms, side by side, and take note of the best of each."""
    seed = study.seed + TUNING
    while True:
        asked: list[tuple[Arm, Job]] = []
        for arm in arms:
            if len(arm.trials) == study.trials:
                continue
            told = [
                trial.value if trial.value is None or study.better == "lower" else -trial.value for trial in arm.trials
            ]
            arm.params = proposals(study.ranges(arm.name), study.trials, study.seed + arm.offset, told)
            asked += [(arm, arm.job(study, tuned, seed)) for tuned in arm.params[len(arm.trials) :]]
        if not asked:
            break
        for (arm, _), outcome in zip(asked, do([job for _, job in asked]), strict=True):
            arm.trials.append(outcome)
    for arm in arms:
        values = [
            trial.value if trial.value is None or study.better == "lower" else -trial.value for trial in arm.trials
        ]
        arm.best = best(arm.params, values, study.ranges(arm.name))


def run_seeds(study: Study, arms: Sequence[Arm], pairs: int, do: Runner) -> None:
    """Have every arm run with the first so many seeds."""
    asked = [
        (arm, number, arm.job(study, arm.best or {}, study.seed + arm.offset + number))
        for number in range(1, pairs + 1)
        for arm in arms
        if number not in arm.runs
    ]
    for (arm, number, _), outcome in zip(asked, do([job for *_, job in asked]), strict=True):
        arm.runs[number] = outcome
