"""Axes of the charts: where a value lies between the ends, and which values are labelled."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flows.arena.pages.number_format import format_power
from tasks.report.chart import nice_ticks, tick

ROUND = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7))  # ticks of each power of ten, the coarsest that gives FEWEST
FEWEST = 4
MARGIN = 0.04  # of a logarithmic axis beyond its outermost values
CLOSE = 1.002  # a ratio of the outermost values below which they are drawn as one


@dataclass(frozen=True)
class Axis:
    """low, high: the ends; ticks: (value, label) within them; log: whether equal ratios are equal lengths."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def share(self, value: float) -> float:
        """Place of a value: 0 at the low end, 1 at the high one; what lies beyond an end is at it."""
        if value <= self.low:
            return 0.0
        if value >= self.high:
            return 1.0
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def beyond(self, value: float) -> bool:
        """Whether a value lies outside the ends."""
        return not self.low <= value <= self.high


def linear(values: Iterable[float], label: Callable[[float], str] | None = None, about: int = 5) -> Axis:
    """An axis from the round number at or below all values to that at or above them. Raises ValueError for no values."""
    found = list(values)
    ticks = nice_ticks(min(found), max(found), about)
    return Axis(ticks[0], ticks[-1], tuple(zip(ticks, map(label, ticks) if label else _labels(ticks), strict=True)))


def logarithmic(values: Iterable[float]) -> Axis:
    """A logarithmic axis over all values, which must be positive, with a margin. Raises ValueError for no values."""
    found = list(values)
    low, high = min(found), max(found)
    margin = (high / low) ** MARGIN if high / low > CLOSE else 1.1
    low, high = low / margin, high * margin
    return Axis(low, high, _log_ticks(low, high), log=True)


def _log_ticks(low: float, high: float) -> tuple[tuple[float, str], ...]:
    """Powers of ten and round parts of them where at least FEWEST fit, else round numbers a round step apart."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for parts in ROUND:
        ticks = [part * 10.0**decade for decade in decades for part in parts]
        within = [t for t in ticks if low <= t <= high]
        if len(within) >= FEWEST:
            return tuple((t, format_power(t)) for t in within)
    ticks = nice_ticks(low, high, 7)
    return tuple((t, label) for t, label in zip(ticks, _labels(ticks), strict=True) if low <= t <= high)


def _labels(ticks: list[float]) -> list[str]:
    """Labels of ticks, with as many digits as tell them apart: `tick` writes small ones with three."""
    texts = [tick(t, ticks) for t in ticks]
    for digits in range(4, 13):
        if len(set(texts)) == len(ticks):
            break
        texts = [f"{t:.{digits}g}" for t in ticks]
    return texts
