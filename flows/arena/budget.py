"""What a budget allows an arm: tokens of pretraining, in whole steps."""

from flows.arena.defaults import defaults
from flows.arena.study import Study
from flows.forecast.forecasts import step_of, works_of
from flows.params.compose import Composer
from lm.training.flops import mean_flops_per_token
from tasks.about.work import Step
from tasks.core.config import ConfigError

CALIBRATION_STEPS = 20  # of a run that measures how fast an arm trains here


def tokens_of(compose: Composer, study: Study, arm: str, tokens_per_second: float = 0.0) -> int | None:
    """Tokens that the arm's runs are trained on, a whole number of steps, so that every schedule ends at the budget; None
    where the budget is none of training. tokens_per_second: of this arm here, for a budget of seconds. Raises ConfigError
    for a budget below a step, and where a target is asked for and what it took cannot be told: steps have not as many
    tokens."""
    kind, amount = study.budget.kind, study.budget.amount
    if kind == "bytes" and study.target is None:
        return None
    trained = defaults().trained
    work = works_of(compose(study.preset, study.assignments(arm, {}, study.seed)), [trained])[trained]
    if study.target is not None and work.full_steps not in (None, work.steps):
        raise ConfigError(f"target: tokens of a step grow in {arm}, where steps to a target are no count of tokens")
    if kind == "bytes":
        return None
    a_step = work.tokens / (work.full_steps or work.steps)
    if kind == "flop":
        steps = steps_of(step_of(work), amount, a_step, work.steps)
    else:
        steps = int(amount * (tokens_per_second if kind == "seconds" else 1) / a_step + 1e-9)
    if not steps:
        raise ConfigError(f"budget: {study.budget.amount:g} {kind} is less than a step of {arm}, {a_step:g} tokens")
    return round(steps * a_step)


def steps_of(step: Step, flop: float, a_step: float, steps: int) -> int:
    """The most steps of so many tokens that take no more FLOP; of a model that grows those of a run of as many, since parts of
    a run are whole steps. steps: of the run as it is asked for without a budget."""

    frozen = step.frozen_part * step.frozen_flops

    def taken(count: int) -> float:
        return count * a_step * (mean_flops_per_token(step.model, step.batch.length, step.growth, count) + frozen)

    mean = mean_flops_per_token(step.model, step.batch.length, step.growth, steps) + frozen
    found = int(flop / mean / a_step + 1e-9)
    if step.growth is None:
        return found
    while taken(found + 1) <= flop * (1 + 1e-9):
        found += 1
    while found and taken(found) > flop * (1 + 1e-9):
        found -= 1
    return found


def calibration_tokens(compose: Composer, study: Study, arm: str) -> int:
    """Tokens of a run that measures how fast the arm trains."""
    trained = defaults().trained
    work = works_of(compose(study.preset, study.assignments(arm, {}, study.seed)), [trained])[trained]
    return round(CALIBRATION_STEPS * work.tokens / (work.full_steps or work.steps))
