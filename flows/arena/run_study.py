"""A study from what was asked to its page: held in .studies/<name>, which keeps what is done."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from json import dumps
from pathlib import Path
from typing import Any

from flows.arena.budget import calibration_tokens, tokens_of
from flows.arena.checkout import Checkout
from flows.arena.defaults import defaults
from flows.arena.duplicate_arms import refuse_duplicate_arms, refuse_measure
from flows.arena.fit_law import fit_law
from flows.arena.input_checks import refuse_inputs
from flows.arena.outcomes import Outcome
from flows.arena.pages import study_page
from flows.arena.race import RaceResult, Runner, race
from flows.arena.result import Provenance, result_of
from flows.arena.runs import Job
from flows.arena.slots import Slots, runs_at_once
from flows.arena.stamp import stamp_of
from flows.arena.study import Study
from flows.params.compose import Composer, override
from lm.files import write_json, write_text
from tasks.core.config import ConfigError
from tasks.runner.progress import clock
from tasks.runner.say import say as tell
from tasks.runner.tracking_socket import recorder

FOLDER = Path(".studies")


def run_study(
    root: Path,
    name: str,
    study: Study,
    at_once: int,
    command: str,
    checkout: Checkout | None = None,
    fit: str | None = None,
) -> tuple[dict[str, Any], Path]:
    """(result, path of its page), with a line for every run. Raises ConfigError, and Failed where a run ends badly; what
    is done is kept. checkout: where several studies are held, what they share. fit: a law over the runs."""
    refuse_tokens(study)
    folder = root / FOLDER / name
    teller, checkout = ProgressLines(name, study), checkout or Checkout(root, root / FOLDER)
    with recorder() as recorded, ExitStack() as kept:
        refuse_measure(checkout, study)
        # which checks every section, before rooms ask what models they read have
        refuse_duplicate_arms(checkout, study, name)
        refuse_inputs(checkout, study)
        slots = Slots(root, study, name, runs_at_once(at_once), checkout, recorded, kept)
        raced = race_within(study, checkout.compose, lambda jobs: slots.do(jobs, teller.say))
    made = stamp_of(raced, folder / "result.json")
    told = Provenance(name, made.commit, made.machine, made.date, slots.threads, runs_at_once(at_once), command)
    result = result_of(study, raced, told)
    if fit is not None:
        result["fit"] = fit_law(fit, result)
    slots.clear()
    write_json(folder / "study.json", study.model_dump(mode="json"))
    write_json(folder / "result.json", result)
    write_text(folder / "index.html", study_page.page(dumps(result)))
    return result, folder / "index.html"


def race_within(study: Study, compose: Composer, do: Runner) -> RaceResult:
    """The race of a study whose budget decides how long each arm trains. Raises ConfigError."""
    allowed = {arm: tokens for arm in study.arms if (tokens := allowed_tokens(compose, study, arm, do))}
    return race(study, lambda jobs: do([within(job, allowed) for job in jobs]))


def tokens_in(assignments: Sequence[str]) -> int | None:
    """The tokens that these assignments, in the form of SET, give; None where they give none. Raises ConfigError."""
    *above, last = defaults().tokens.split(".")
    params: dict[str, Any] = {above[0]: {}}
    for assignment in assignments:
        if assignment.partition("=")[0].strip().partition(".")[0] in params:
            params = override(params, assignment)
    found: Any = params
    for key in above:
        found = found.get(key) if isinstance(found, dict) else None
    tokens = found.get(last) if isinstance(found, dict) else None
    return tokens if isinstance(tokens, int) else None


def refuse_tokens(study: Study) -> None:
    """Raises ConfigError where tokens are set for every arm, or tuned, beside a budget that decides them."""
    name = defaults().tokens
    if study.budget.kind == "bytes":
        return
    if (tokens := tokens_in(study.set)) is not None:
        raise ConfigError(
            f"set: {name}: {tokens}: the budget decides it: leave it out, or say budget: {{tokens: {tokens}}}"
        )
    for arm in study.arms:
        if name in study.ranges(arm):
            raise ConfigError(f"tune: {name}: the budget decides it: leave it out, or give it to arms of their own")


def allowed_tokens(compose: Composer, study: Study, arm: str, do: Runner) -> int | None:
    """Tokens that the arm's runs are cut to: what the budget allows it, None where it asks for no more of its own accord.
    Raises ConfigError where it asks for more."""
    allowed, own = budgeted(compose, study, arm, do), tokens_in(study.assignments(arm, {}, study.seed))
    if allowed is None or own is None:
        return allowed
    if own > allowed:
        raise ConfigError(
            f"arms: {arm}: {defaults().tokens}: {own:,} are more than the budget allows it, {allowed:,}: raise the budget, "
            "or leave it out"
        )
    return None


def budgeted(compose: Composer, study: Study, arm: str, do: Runner) -> int | None:
    """Tokens that the budget allows an arm, None where it is none of training. For one of seconds a short run tells how fast
    the arm trains here; what it told is kept with the study, so that a study which goes on has the same budget."""
    if study.budget.kind != "seconds":
        return tokens_of(compose, study, arm)
    tokens = calibration_tokens(compose, study, arm)
    job = within(Job(arm, {}, study.seed, study.assignments(arm, {}, study.seed)), {arm: tokens})
    (measured,) = do([job])
    if not measured.seconds:
        raise ConfigError(f"budget: how fast {arm} trains is not known: {measured.why or 'its times are gone'}")
    return tokens_of(compose, study, arm, measured.tokens / measured.seconds)


def within(job: Job, allowed: dict[str, int]) -> Job:
    """The job with the tokens that its arm is allowed."""
    if job.arm not in allowed:
        return job
    return replace(job, assignments=[*job.assignments, f"{defaults().tokens}={allowed[job.arm]}"])


class ProgressLines:
    """Says how far a study is: a line a run, with the time that is left if every arm runs with every seed."""

    def __init__(self, name: str, study: Study) -> None:
        arms = len(study.arms) + 1  # the baseline's second self
        trials = sum(study.trials if study.ranges(arm) else 1 for arm in [*study.arms, study.baseline])
        measured = len(study.arms) if study.budget.kind == "seconds" else 0  # how fast each trains here
        self._name, self._most = name, measured + trials + arms * study.seeds
        self._done = self._ran = 0
        self._since = time.monotonic()

    def say(self, job: Job, outcome: Outcome, known: bool) -> None:
        """Take note of a run that is done; known: from before."""
        self._done += 1
        self._ran += not known
        said = " ".join(
            [f"{key.rpartition('.')[2]}={value:g}" for key, value in job.tuned.items()] + [f"seed {job.seed}"]
        )
        value = "diverged" if outcome.value is None else f"{outcome.value:.5g}"
        left = ""
        if self._ran:
            each = (time.monotonic() - self._since) / self._ran
            left = f", at most {clock(each * max(self._most - self._done, 0))} left"
        again = " (done before)" if known else ""
        tell(f"{self._name} {self._done}/{self._most} {job.arm} {said}: {value}{again}{left}")
