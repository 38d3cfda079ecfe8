"""Tuning: the same number of trials for every arm, proposed by Optuna's ask and tell from a fixed seed."""

import math
from collections.abc import Iterator, Sequence

from flows.arena.study import Range

# Share of the trials that is spread evenly before any value is known; the others are proposed by a model of those before
# (TPE); two trials are both spread, as a model of one value proposes that value again.
# By half of four trials, 0.003 and 0.012, AdamW's other two came at 0.0016 and 0.0017, and nothing between the first two.
EVENLY = 2 / 3
WIDTH = 0.1  # of a range, on a log scale
ROUND = 2  # trials that are proposed together, so that as many can run at once; the same on every machine


def proposals(ranges: dict[str, Range], trials: int, seed: int, told: Sequence[float | None]) -> list[dict[str, float]]:
    """The parameters of every trial that can be proposed now that the values of the first `len(told)` are known.

    Arms with the same ranges are asked for the same until their values differ, so that chance favours none. told: of
    trials in their order, lower is better, None for one that diverged. Asked again with more values the first proposals
    are the same, so a study that was killed goes on as it would have. Without ranges there is one, with nothing to tune.
    """
    if not ranges:
        return [{}]
    evenly = max(round(trials * EVENLY), min(trials, 2))
    if len(told) < evenly:
        return [spread(ranges, number, evenly) for number in range(evenly)]
    import optuna  # 0.6 s

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=1, constant_liar=True)
    search = optuna.create_study(sampler=sampler)
    space: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.FloatDistribution(*ranges[name], log=True) for name in sorted(ranges)
    }
    for number in range(evenly):
        search.enqueue_trial(spread(ranges, number, evenly))
    found: list[dict[str, float]] = []
    waiting: list[optuna.Trial] = []
    for size in _rounds(trials, evenly):
        if len(told) < len(found):
            break
        for trial, value in zip(waiting, told[len(found) - len(waiting) :], strict=False):
            # a trial that diverged counts as worse than any that did not
            search.tell(trial, value, None if value is not None else optuna.trial.TrialState.PRUNED)
        waiting = [search.ask(space) for _ in range(size)]
        found += [{name: _short(trial.params[name]) for name in space} for trial in waiting]
    return found


def spread(ranges: dict[str, Range], number: int, of: int) -> dict[str, float]:
    """Point `number` of `of` points that cover the ranges evenly on a log scale: of each parameter the middle of one of
    `of` equal parts, each part once. The k-th parameter goes through its parts in steps of the k-th number that shares no
    divisor with their number (a lattice), so that two parameters do not rise together where that can be."""
    steps = [step for step in range(1, of + 1) if math.gcd(step, of) == 1]
    found = {}
    for place, (name, (low, high)) in enumerate(sorted(ranges.items())):
        part = (number * steps[place % len(steps)] + place) % of
        found[name] = _short(low * (high / low) ** ((part + 0.5) / of))
    return found


def best(
    params: Sequence[dict[str, float]], values: Sequence[float | None], ranges: dict[str, Range]
) -> dict[str, float] | None:
    """The parameters of the trial that is lowest by the mean of its neighbourhood, the first of equals; None where all
    diverged.

    The mean has Gaussian weights of WIDTH of the ranges' logs, and a trial that diverged counts as the worst that did not.
    The lowest value alone is as much luck as merit: of two arms that were the same, with noise of 0.4% a run and six
    trials, 12% of 150 races then found a difference; by neighbourhoods 5%, as with the best rate known.
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    found = [max(known) if value is None else value for value in values]
    places = [
        [math.log(each[name] / low) / math.log(high / low) for name, (low, high) in sorted(ranges.items())]
        for each in params
    ]

    def smoothed(number: int) -> float:
        apart = [math.dist(places[number], place) / WIDTH for place in places]
        weights = [math.exp(-(each**2) / 2) for each in apart]
        return sum(weight * value for weight, value in zip(weights, found, strict=True)) / sum(weights)

    return params[min((smoothed(n), n) for n, value in enumerate(values) if value is not None)[1]]


def _rounds(trials: int, evenly: int) -> Iterator[int]:
    """How many trials are proposed together, from the first to the last."""
    yield evenly
    for start in range(evenly, trials, ROUND):
        yield min(ROUND, trials - start)


def _short(value: float) -> float:
    """Four digits, as a person would write it into params.yaml."""
    return float(f"{value:.4g}")
