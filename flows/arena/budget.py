"""What a budget allows an arm: tokens of pretraining, in whole steps."""

from flows.arena.defaults import defaults
from flows.arena.study import Study
from flows.forecast.forecasts import step_of, works_of
from flows.params.compose import Composer
from lm.training.flops import mean_flops_per_token
from tasks.core.config import ConfigError

CALIBRATION_STEPS = 20  # of a run that measures how fast an arm trains here


def tokens_of(compose: Composer, study: Study, arm: str, tokens_per_second: float = 0.0) -> int | None:
    """Tokens that the arm's runs are trained on, a whole number of steps, so that every schedule ends at the budget; None
    where the budget is none of training. tokens_per_second: of this arm here, for a budget of seconds. Raises ConfigError
    for a budget below a step, and where tokens to a target are asked for and steps have not as many."""
    kind, amount = study.budget.kind, study.budget.amount
    if kind == "bytes":
        return None
    trained = defaults().trained
    work = works_of(compose(study.preset, study.assignments(arm, {}, study.seed)), [trained])[trained]
    if study.target is not None and work.full_steps not in (None, work.steps):
        raise ConfigError(f"target: tokens of a step grow in {arm}, where steps to a target are no count of tokens")
    a_step = work.tokens / (work.full_steps or work.steps)
    if kind == "flop":
        step = step_of(work)
        amount /= mean_flops_per_token(step.model, step.batch.length, step.growth, work.steps)
    elif kind == "seconds":
        amount *= tokens_per_second
    steps = int(amount / a_step + 1e-9)
    if not steps:
        raise ConfigError(f"budget: {study.budget.amount:g} {kind} is less than a step of {arm}, {a_step:g} tokens")
    return round(steps * a_step)


def calibration_tokens(compose: Composer, study: Study, arm: str) -> int:
    """Tokens of a run that measures how fast the arm trains."""
    trained = defaults().trained
    work = works_of(compose(study.preset, study.assignments(arm, {}, study.seed)), [trained])[trained]
    return round(CALIBRATION_STEPS * work.tokens / (work.full_steps or work.steps))
