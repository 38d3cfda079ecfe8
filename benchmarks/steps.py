"""Training steps as turns: a loop that calls `Steps` after each of its steps is timed a few at a time, and waits between."""

import time
from collections.abc import Callable

from benchmarks.turns import Turns


def nothing_more(rate: float) -> dict[str, float]:
    return {}


class Steps:
    """Losses and rates of steps by turns: the first FIRST losses are the answer of every sample, and the first sample is made
    of them.

    more(tokens per second): further values of a sample, measured outside of its time.
    """

    FIRST = 10

    def __init__(self, turns: Turns, tokens: int, steps: int, more: Callable[[float], dict[str, float]] = nothing_more):
        self._turns, self._tokens, self._steps, self._more = turns, tokens, steps, more
        self._losses: list[float] = []
        self._left = self._in_turn = self.FIRST
        self._first_step = 0.0
        self._began = time.perf_counter()

    def __call__(self, loss: float) -> None:
        """`loss` is that of the step just done. Hands over a sample and waits where the turn ends."""
        self._losses.append(loss)
        if len(self._losses) == 1:
            self._first_step = time.perf_counter() - self._began
        self._left -= 1
        if self._left:
            return
        a_step = (time.perf_counter() - self._began) / self._in_turn
        rate = self._tokens / a_step
        values = {"tokens_per_second": rate, "compile_time": self._first_step - a_step, **self._more(rate)}
        self._turns(values, self._losses[: self.FIRST])
        self._left = self._in_turn = self._steps
        self._began = time.perf_counter()
