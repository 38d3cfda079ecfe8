"""AccelAT: the rate drops whenever progress flattens: Nikfam et al. 2022 (arXiv:2210.06888).

The paper watches the slope of the accuracy from one epoch of adversarial training to the next and changes the rate by it.
Differs from the paper: what is watched is the mean training loss of equal windows of a run, since one pass over the data has no
epochs; flat is a relative gain below a bound; there is a warm-up; and the rate only ever falls.
"""

from typing import Literal

from pydantic import Field

from lm.schedules.feedback import Feedback


def flattened(before: float, now: float, least: float) -> bool:
    """Whether the loss fell from one window to the next by less than this share of what it was, or rose."""
    return before - now < least * abs(before)


class Watcher:
    """AccelAT in one run. Windows begin behind the warm-up; the steps behind the last have the rate it left."""

    def __init__(self, method: "Accelat", total_steps: int) -> None:
        self._method, self._factor = method, 1.0
        self._warmup = int(method.warmup_fraction * total_steps)
        self._window = max((total_steps - self._warmup) // method.windows, 1)
        self._losses: list[float] = []  # of the window so far
        self._before: list[float] = []  # the mean of the window before, once there is one

    def factor(self, step: int) -> float:
        return (step + 1) / (self._warmup + 1) if step < self._warmup else self._factor

    def observe(self, step: int, loss: float) -> None:
        if step < self._warmup:
            return
        self._losses.append(loss)
        if len(self._losses) < self._window:
            return
        now, method = sum(self._losses) / self._window, self._method
        if self._before and flattened(self._before[0], now, method.least_gain):
            self._factor = max(self._factor * method.drop, method.final_fraction)
        self._before, self._losses = [now], []

    def is_trial(self, step: int) -> bool:
        return False

    def begins_trials(self, step: int) -> bool:
        return False

    def goes_back(self, step: int) -> bool:
        return False

    def state(self) -> dict[str, list[float]]:
        return {"factor": [self._factor], "losses": list(self._losses), "before": list(self._before)}

    def load(self, state: dict[str, list[float]]) -> None:
        (self._factor,) = state["factor"]
        self._losses, self._before = list(state["losses"]), list(state["before"])


class Accelat(Feedback):
    name: Literal["accelat"] = "accelat"
    warmup_fraction: float = Field(0.02, ge=0, lt=1, description="of all steps")
    windows: int = Field(
        20, gt=0, description="equal parts of the steps behind the warm-up, whose mean losses are compared"
    )
    least_gain: float = Field(0.01, ge=0, lt=1, description="share by which the loss must fall, or the rate drops")
    drop: float = Field(0.5, gt=0, lt=1, description="what the rate is multiplied by")
    final_fraction: float = Field(0.01, gt=0, le=1, description="factor below which it does not drop")

    def follower(self, total_steps: int) -> Watcher:
        return Watcher(self, total_steps)
