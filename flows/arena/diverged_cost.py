"""What runs that diverged had spent, which they do not say themselves: a search that fails is not one that costs nothing."""

import re
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from flows.arena.outcomes import Outcome
from flows.arena.race import Arm, RaceResult
from flows.arena.runs import watched
from flows.arena.study import Study

AT_STEP = re.compile(r"(\S+): step (\d+)")
SPENT = ("tokens", "flop", "seconds")


def charge_diverged(study: Study, raced: RaceResult) -> RaceResult:
    """The race in which every run that diverged has spent what those of its arm that did not have, up to the step at which it
    diverged; what all of the baseline's have where the arm has no other; and the budget where the baseline has none."""

    def ended(name: str) -> list[Outcome]:
        named = [arm for arm in (*raced.arms.values(), raced.again) if arm.name == name]
        return [one for arm in named for one in (*arm.trials, *arm.runs.values()) if one.value is not None]

    def of(arm: Arm) -> Arm:
        like = ended(arm.name) or ended(study.baseline)
        trials = [with_estimated_cost(study, one, like) for one in arm.trials]
        return replace(
            arm, trials=trials, runs={number: with_estimated_cost(study, one, like) for number, one in arm.runs.items()}
        )

    return replace(raced, arms={name: of(arm) for name, arm in raced.arms.items()}, again=of(raced.again))


def with_estimated_cost(study: Study, outcome: Outcome, like: Sequence[Outcome]) -> Outcome:
    """The outcome with what it had spent, by these others: as it is where it has a value or says so itself."""
    if outcome.value is not None or outcome.tokens:
        return outcome
    if not like:
        kind, amount = study.budget.kind, study.budget.amount
        whole = {name: amount if name == kind else 0.0 for name in SPENT}
        share = 1.0
    else:
        whole = {name: fmean(getattr(one, name) for one in like) for name in SPENT}
        a_step = fmean(one.tokens_a_step for one in like)
        share = share_of(study, outcome.why, whole["tokens"] / a_step if a_step else 0.0)
    tokens, flop, seconds = (share * whole[name] for name in SPENT)
    return replace(outcome, tokens=round(tokens), flop=flop, seconds=seconds)


def share_of(study: Study, why: str, steps: float) -> float:
    """The share of so many steps that a run of the watched stage had made when it diverged; whole where that is not told, or
    another stage diverged."""
    found = AT_STEP.search(why)
    if not found or found[1] != watched(study.room) or not steps:
        return 1.0
    return min(int(found[2]) / steps, 1.0)
