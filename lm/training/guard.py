"""What losses and gradient norms say about a step: learn from it, skip it, or give up."""

import math
from collections import deque

import torch
from torch import Tensor

WINDOW, FEW = 128, 32


class Diverged(FloatingPointError):
    """Training has failed; the message says where and what to change."""


class Guard:
    """Skips a step whose loss or gradient norm is more than `skip_sigmas` standard deviations above the mean of the WINDOW
    before it, as the SkipStepOptimizer of OLMo-core does; 0: never. A skipped step counts in the window, so a lasting change of
    level is accepted.

    Gives up when the mean of the last FEW losses is more than `stop_factor` times that of the first FEW; 0: never, nor
    where that was not above 0.
    """

    def __init__(self, skip_sigmas: float, stop_factor: float) -> None:
        self._sigmas, self._factor = skip_sigmas, stop_factor
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._norms: deque[float] = deque(maxlen=WINDOW)
        self._first: list[float] = []

    def accept(self, step: int, loss: float, norm: float) -> bool:
        """Whether to learn from the step. Raises Diverged."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(
                f"step {step}: the loss is {loss} and the gradient's norm {norm}: lower the learning rate or the clip"
            )
        keep = not (self._sigmas and (self._outlier(self._losses, loss) or self._outlier(self._norms, norm)))
        self._losses.append(loss)
        self._norms.append(norm)
        if len(self._first) < FEW:
            self._first.append(loss)
        now, then = _mean(list(self._losses)[-FEW:]), _mean(self._first)
        if self._factor and then > 0 and len(self._losses) > FEW and now > self._factor * then:
            raise Diverged(
                f"step {step}: the mean loss of {FEW} steps is {now:.4g}, of the first {FEW} it was {then:.4g}: "
                "lower the learning rate or the clip, or raise stop_factor"
            )
        return keep

    def _outlier(self, past: deque[float], value: float) -> bool:
        if len(past) < WINDOW // 2:
            return False
        mean = _mean(past)
        return value > mean + self._sigmas * math.sqrt(_mean([(x - mean) ** 2 for x in past]))

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds of the guard: losses and norms of late, and the first losses."""
        lists = {"losses": self._losses, "norms": self._norms, "first": self._first}
        return {name: torch.tensor(list(values), dtype=torch.float64) for name, values in lists.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from a state()."""
        self._losses = deque(state["losses"].tolist(), maxlen=WINDOW)
        self._norms = deque(state["norms"].tolist(), maxlen=WINDOW)
        self._first = state["first"].tolist()


def _mean(values: list[float] | deque[float]) -> float:
    return math.fsum(values) / len(values)
