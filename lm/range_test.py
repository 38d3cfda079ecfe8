"""Which rates a run can have: a range test (Smith 2017, arXiv:1506.01186; 2018, arXiv:1803.09820, section 4.1), in which the
rate rises by equal factors until the loss does, and the largest constant rate at which fresh weights begin to learn (Iyer et
al. 2022, arXiv:2212.07295), by bisection.

Differs from the papers: the range test rises by factors and not by equal parts, and tells by training losses, smoothed."""

import math
from collections.abc import Callable, Sequence

from lm.config import Config

MEMORY = 0.9  # of the running mean of losses
WORSE = 0.05  # by which a smoothed loss may lie above the least so far


class Rising(Config):
    """A schedule by equal factors, from `lowest` at step 0 to `highest` at step `steps` - 1, whatever the run's total is."""

    lowest: float
    highest: float
    steps: int

    def __call__(self, step: int, total_steps: int) -> float:
        return self.lowest * (self.highest / self.lowest) ** (step / max(self.steps - 1, 1))


def smoothed(losses: Sequence[float]) -> list[float]:
    """Running means with MEMORY of those before, corrected for having begun at 0."""
    mean, found = 0.0, []
    for number, loss in enumerate(losses, 1):
        mean = MEMORY * mean + (1 - MEMORY) * loss
        found.append(mean / (1 - MEMORY**number))
    return found


def largest_stable(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The last of the rising rates before the smoothed loss first lies more than WORSE above its least so far; the last of all
    where it never does. Not empty."""
    least = math.inf
    for number, loss in enumerate(smoothed(losses)):
        least = min(least, loss)
        if loss > least + WORSE * abs(least):
            return rates[max(number - 1, 0)]
    return rates[-1]


def steepest(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate at which the smoothed loss falls fastest from one step to the next; the first where there is one step."""
    means = smoothed(losses)
    falls = [before - now for before, now in zip(means, means[1:], strict=False)]
    return rates[falls.index(max(falls)) + 1] if falls else rates[0]


def bisect(learns: Callable[[float], bool], lowest: float, highest: float, tries: int) -> float | None:
    """The largest factor found by so many halvings of the range's logarithm at which a run learns; None where it does not at
    the lowest, and the highest where it learns there."""
    if not learns(lowest):
        return None
    if learns(highest):
        return highest
    for _ in range(tries):
        middle = math.sqrt(lowest * highest)
        lowest, highest = (middle, highest) if learns(middle) else (lowest, middle)
    return lowest


def has_learned(losses: Sequence[float], steps: int) -> bool:
    """Whether all of so many steps were made and the mean of their last quarter is below the first loss."""
    last = losses[-max(steps // 4, 1) :]
    return len(losses) >= steps and sum(last) / len(last) < losses[0]
