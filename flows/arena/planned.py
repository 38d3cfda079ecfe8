"""What studies would run, before any of it does: their races with values that are drawn in place of those of unknown runs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from flows.arena.checkout import Checkout
from flows.arena.hold import race_within
from flows.arena.outcomes import Outcome
from flows.arena.runs import Job
from flows.arena.study import Study
from tasks.report.words import pluralize

RATE = 20_000  # tokens a second, of arms whose pace here is not known


@dataclass(frozen=True)
class Plan:
    """What one study would run. runs: that no study before it asks for, at most, as no case ends early. new: how many of them
    are to be made. known: whether its result follows from what is known."""

    runs: int
    new: int
    known: bool


def plans_of(checkout: Checkout, studies: Mapping[str, Study], threads: int) -> dict[str, Plan]:
    """The plan of each study, with so many threads a run, in the order in which they are held. Raises ConfigError."""
    asked, found = set[str](), dict[str, Plan]()
    for name, study in studies.items():
        known = is_known(checkout, name, study, threads)
        keys = runs_of(checkout, name, study, threads) - asked
        found[name] = Plan(len(keys), 0 if known else len(keys - checkout.outcomes.known.keys()), known)
        asked |= keys
    return found


def in_lines(plans: Mapping[str, Plan]) -> Iterator[str]:
    """A line a study, then the sum."""
    for name, plan in plans.items():
        yield f"{name:<24} {pluralize(plan.new, 'run')} of {plan.runs}" if not plan.known else f"{name:<24} up to date"
    new, runs = (sum(getattr(plan, each) for plan in plans.values()) for each in ("new", "runs"))
    yield f"{pluralize(new, 'run')} of {runs} to make, at most"


def is_known(checkout: Checkout, name: str, study: Study, threads: int) -> bool:
    """Whether every run that the study asks for is known, so that holding it would run nothing."""
    outcomes = checkout.outcomes

    class Unknown(Exception):
        pass

    def do(jobs: Sequence[Job]) -> list[Outcome]:
        keys = [key_of(checkout, name, study, threads, job) for job in jobs]
        if any(key not in outcomes.known for key in keys):
            raise Unknown
        return [outcomes.known[key] for key in keys]

    try:
        race_within(study, checkout.compose, do)
    except Unknown:
        return False
    return True


def runs_of(checkout: Checkout, name: str, study: Study, threads: int) -> set[str]:
    """Keys of all that the study asks for where no case ends early. What is not known has a value by its key, so that equal
    runs of two studies lead to equal ones after them."""
    asked = set[str]()

    def do(jobs: Sequence[Job]) -> list[Outcome]:
        found = []
        for job in jobs:
            key = key_of(checkout, name, study, threads, job)
            asked.add(key)
            drawn = Outcome(key, job.arm, job.tuned, job.seed, 1 + int(key, 16) / 16 ** len(key), 1.0, tokens=RATE)
            found.append(checkout.outcomes.known.get(key, drawn))
        return found

    race_within(study.model_copy(update={"looks": 1}), checkout.compose, do)
    return asked


def key_of(checkout: Checkout, name: str, study: Study, threads: int, job: Job) -> str:
    """Key of a run. Raises ConfigError."""
    return checkout.key(study, name, checkout.compose(study.preset, job.assignments), threads)
