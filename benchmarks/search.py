"""Tuning whose cost is counted: every run that a side makes before the comparison is in its account."""

import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.contest import Sample

Settings = dict[str, Any]
# The values are at least time, tokens and bits_per_byte; the answer says what judged the model.
Run = Callable[[Settings, int], Sample]


class Account:
    """The runs of one side so far; `run` takes settings and a seed."""

    def __init__(self, name: str, run: Run) -> None:
        self.name, self._run = name, run
        self.samples: list[Sample] = []

    def __call__(self, settings: Settings, seed: int) -> Sample:
        """One more run, and a line about it on stderr."""
        sample = self._run(settings, seed)
        self.samples.append(sample)
        shown = ", ".join(f"{name} {value:.5g}" for name, value in sample.values.items())
        print(f"{self.name} {settings}, seed {seed}: {shown}", file=sys.stderr, flush=True)
        return sample

    def cost(self) -> dict[str, float]:
        """time, tokens and number of the runs so far."""
        sums = {name: sum(sample.values[name] for sample in self.samples) for name in ("time", "tokens")}
        return {**sums, "runs": len(self.samples)}


def best(run: Run, settings: Iterable[Settings], seed: int) -> tuple[Settings, float]:
    """The settings with the fewest bits per byte, a run each, and those bits; the first of equals."""
    tried = [(each, run(each, seed).values["bits_per_byte"]) for each in settings]
    return min(tried, key=lambda pair: pair[1])


def by_turns(run: Run, start: Settings, choices: Mapping[str, Sequence[Any]], seed: int) -> tuple[Settings, float]:
    """The best settings found by trying the choices of one after another, the others as they are best so far, and the bits per
    byte they have. A run for the start, and one for each choice that differs from what it would replace."""
    found, bits = best(run, [start], seed)
    for name, values in choices.items():
        others = [{**found, name: value} for value in values if value != found[name]]
        rival, fewer = best(run, others, seed)
        if fewer < bits:
            found, bits = rival, fewer
    return found, bits


def fewest(budgets: Sequence[int], reaches: Callable[[int], bool]) -> int:
    """The first of the rising budgets that `reaches`, if more never hurts; the last where none does. Asks for the middle one
    first, and for log2 of them in all, rounded up."""
    return budgets[min(bisect_left(budgets, True, key=reaches), len(budgets) - 1)]
