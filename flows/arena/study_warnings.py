"""What of a study makes its winner doubtful, by arm; under "" what concerns all of them."""

from collections import defaultdict
from typing import Any

import numpy as np

from flows.arena.defaults import defaults
from flows.arena.outcomes import Outcome
from flows.arena.race import Arm, RaceResult, decide_arm
from flows.arena.statistics.flags import (
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
from flows.arena.statistics.ratios import MIN_PAIRS, Comparison
from flows.arena.statistics.sequential import compare_at
from flows.arena.statistics.to_target import smoothed
from flows.arena.study import METHOD, Study
from flows.arena.study_options import methods
from lm.config import ConfigError


def warnings_of(study: Study, raced: RaceResult) -> dict[str, list[str]]:
    """The warnings, a line each."""
    said: dict[str, list[str]] = defaultdict(list)
    base = raced.arms[study.baseline]
    at_end = {name: factor for name, arm in raced.arms.items() if (factor := end_of_schedule(arm)) is not None}
    for name, arm in raced.arms.items():
        said[name] += at_edge(arm.best or {}, study.ranges(name))
        said[name] += diverged(
            name, [run.value is None for run in arm.runs.values()], [t.value is None for t in arm.trials]
        )
        said[name] += too_large(study, arm)
        if any(run.grows for run in arm.runs.values()):
            said[name].append("its model grows: no curve over seconds, which are not even over its tokens")
        if name in at_end:
            said[name] += undecayed(name, at_end)
        if arm is base:
            continue
        said[name] += tuned_less(study.baseline, tuning(study, base), name, tuning(study, arm), only_of(study, name))
        of_method = [key for key in study.ranges(study.baseline) if key.startswith(f"{study.room}.")]
        said[name] += tuned_less(name, tuning(study, arm), study.baseline, tuning(study, base), of_method)
        found = decide_arm(study, raced, arm).comparison
        ends = (at_end[name], at_end[study.baseline]) if {name, study.baseline} <= at_end.keys() else None
        said[name] += won_by_decay(name, found, before_decay(study, raced, arm), ends)
        if study.control is not None and (beside := beside_control(study, raced, arm)) is not None:
            said[name] += unbeaten(name, study.baseline, study.control, found, beside, at_end)
    said[""] += none_decayed(at_end)
    said[""] += other_data(study.baseline, seen_by(study, raced))
    said[""] += other_tokens(study.baseline, tokens_of(study, raced))
    said[""] += the_same(raced)
    said[""] += noisy(study.baseline, decide_arm(study, raced, raced.again).comparison)
    return dict(said)


def seen_by(study: Study, raced: RaceResult) -> dict[str, list[str]]:
    """Digests of the data of the baseline and of each arm that is to see the same, as one that changes nothing of the data
    stages is, in the order of the seeds; without arms to which a budget of FLOP or seconds gives other tokens, and so a plan
    of another length."""
    base, tokens = data_set(study, raced.arms[study.baseline]), tokens_in(raced)
    longer = {name for name in tokens if tokens[name] != tokens.get(study.baseline)} if by_pace(study) else set[str]()
    return {
        name: [arm.runs[number].data for number in sorted(arm.runs)]
        for name, arm in raced.arms.items()
        if name not in longer and all(key in base and base[key] == value for key, value in data_set(study, arm).items())
    }


def data_set(study: Study, arm: Arm) -> dict[str, Any]:
    """What an arm sets, or was tuned, of the parameters that decide what is trained on."""
    given = {**study.own(arm.name), **(arm.best or {})}
    return {key: value for key, value in given.items() if key.partition(".")[0] in defaults().data}


def tokens_of(study: Study, raced: RaceResult) -> dict[str, int]:
    """Tokens of a run of the baseline and of each arm that is to have as many: of all, unless tokens are what is raced or
    follow from a budget of FLOP or seconds."""
    key = defaults().tokens
    if study.room == key:
        return {}
    setting = {name for name in study.arms if any(f"{key}.".startswith(f"{each}.") for each in study.own(name))}
    alike = not by_pace(study) or study.baseline in setting
    return {
        name: tokens for name, tokens in tokens_in(raced).items() if alike or name in setting or name == study.baseline
    }


def tokens_in(raced: RaceResult) -> dict[str, int]:
    """Tokens of a run of each arm that has one which did not diverge."""
    found = {name: [run for run in arm.runs.values() if run.value is not None] for name, arm in raced.arms.items()}
    return {name: runs[0].tokens for name, runs in found.items() if runs}


def by_pace(study: Study) -> bool:
    """Whether each arm's tokens follow from what a token takes it."""
    return study.budget.kind not in ("tokens", "bytes")


def the_same(raced: RaceResult) -> list[str]:
    """A line for each group of arms whose runs are equal to the last digit: nothing tells them apart."""
    groups = defaultdict(list)
    for name, arm in raced.arms.items():
        groups[tuple((n, arm.runs[n].value, arm.runs[n].curve) for n in sorted(arm.runs)[:MIN_PAIRS])].append(name)
    return [
        f"{', '.join(names[:-1])} and {names[-1]} are equal in every run: this study does not tell them apart"
        for runs, names in groups.items()
        if len(names) > 1 and any(value is not None for _, value, _ in runs)
    ]


def too_large(study: Study, arm: Arm) -> list[str]:
    """A line for an arm whose weights take more than a budget of bytes."""
    size = max((run.size_bytes for run in arm.runs.values()), default=0)
    if study.budget.kind != "bytes" or size <= study.budget.amount:
        return []
    return [f"takes {size:,} bytes of weights, and the budget is {study.budget.amount:,.0f}"]


def end_of_schedule(arm: Arm) -> float | None:
    """The learning rate at the last step over its peak; None where no run has one."""
    found = [run.rates[1] / run.rates[0] for run in arm.runs.values() if run.rates[0] > 0]
    return max(found) if found else None


def tuning(study: Study, arm: Arm) -> Tuning:
    """How hard the arm was tuned; trials that were not done, as a search that was cut short leaves them, do not count."""
    return Tuning(len(arm.trials), study.ranges(arm.name))


def only_of(study: Study, name: str) -> list[str]:
    """What is tuned of an arm that the baseline's method has no parameter for; of a baseline that names no method of the room,
    what is not tuned of it."""
    own = [key for key in study.ranges(name) if key.startswith(f"{study.room}.")]
    try:
        has = methods(study.room)[study.arms[study.baseline][METHOD]["name"]].model_fields
    except (ConfigError, KeyError, TypeError):
        return [key for key in own if key not in study.ranges(study.baseline)]
    return [key for key in own if key.removeprefix(f"{study.room}.").partition(".")[0] not in has]


def before_decay(study: Study, raced: RaceResult, arm: Arm) -> Comparison | None:
    """Arm and baseline by their smoothed training curves where the first of their schedules begins to end; None where none
    does before the budget."""
    both = raced.pairs(study, arm)
    ended = [run for pair in both for run in pair if run.value is not None]
    at = min((run.decays_from for run in ended if run.decays_from), default=0.0)
    if not at or any(at >= run.tokens for run in ended):
        return None
    return compare_at([(value_at(one, at), value_at(other, at)) for one, other in both], raced.looks, study.level)


def value_at(run: Outcome, tokens: float) -> float | None:
    """The smoothed loss of a run after so many tokens; None of one that diverged."""
    if run.value is None or not run.curve:
        return None
    places, values = np.array(run.curve).T
    return float(np.interp(tokens, places, smoothed(values)))


def beside_control(study: Study, raced: RaceResult, arm: Arm) -> Comparison | None:
    """The arm beside the study's control, None where there is none or it is the arm itself or the baseline."""
    if study.control in (None, arm.name, study.baseline):
        return None
    control = raced.arms[study.control]
    numbers = sorted(arm.runs.keys() & control.runs.keys())
    return compare_at(
        [(arm.runs[n].value, control.runs[n].value) for n in numbers], raced.looks, study.level, study.better
    )
