"""Races whose runs are numbers: what a study does with them, without the ten seconds that a run takes."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from flows.arena.outcomes import Outcome
from flows.arena.race import RaceResult, race
from flows.arena.runs import Job
from flows.arena.study import Study

RATE = "pretrain.optimizer.lr"


def study(arms: Sequence[str] = ("adamw", "muon"), **more: object) -> Study:
    """A study of these arms with one rate to tune."""
    values = {
        "room": "pretrain.optimizer",
        "baseline": arms[0],
        "arms": {name: {"method": {"name": name}} for name in arms},
        "tune": {RATE: [0.001, 0.1]},
        "budget": {"tokens": 1000},
        **more,
    }
    return Study.model_validate(values, strict=False)


def losses(gain: dict[str, float], noise: float, salt: int = 0) -> Callable[[Job], Outcome]:
    """Runs whose loss is a parabola of the log of the rate around 0.01, times the arm's gain, times noise of the seed (the
    same for all arms) and of arm and seed. A rate of an arm above 0.05 diverges where its gain is given as nan."""

    def run(job: Job) -> Outcome:
        rate = job.tuned.get(RATE, 0.01)
        apart = math.log10(rate / 0.01)
        key = [salt, job.seed, *map(ord, "".join(sorted(job.tuned)) or "-"), round(rate * 1e6)]
        common, own = (
            np.random.Generator(np.random.Philox(key=[salt, job.seed])),
            np.random.default_rng([*key, *map(ord, job.arm)]),
        )
        value = (
            2.0
            * (1 + 0.02 * apart**2)
            * gain.get(job.arm, 1.0)
            * math.exp(common.normal(0, 3 * noise))
            * math.exp(own.normal(0, noise))
        )
        curve = tuple((100.0 * step, value + 5.0 * math.exp(-step)) for step in range(1, 11))
        return Outcome(
            "", job.arm, job.tuned, job.seed, value,
            seconds=10.0, flop=1e9, tokens=1000, parameters=500, size_bytes=2000, data=f"data {job.seed}",
            curve=curve, rates=(1.0, 0.0), decays_from=700.0,
        )  # fmt: skip

    return run


def raced(asked: Study, run: Callable[[Job], Outcome]) -> RaceResult:
    """The race with these runs."""
    return race(asked, lambda jobs: [run(job) for job in jobs])
