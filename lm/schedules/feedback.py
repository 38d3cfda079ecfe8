"""Schedules that look at the losses of their run: what they are asked for, and what a checkpoint holds of them."""

from typing import ClassVar, Protocol

from lm.config import Config


class Follower(Protocol):
    """A schedule in one run, told of every step in order. Its factors follow from its parameters, the run's number of steps and
    the losses so far, and it is the same on every rank, since they are."""

    def factor(self, step: int) -> float:
        """Factor of the learning rate, in (0, 1], at a step of which all losses before are known."""
        ...

    def observe(self, step: int, loss: float) -> None:
        """Take note of a step's loss, a finite number."""
        ...

    def is_trial(self, step: int) -> bool:
        """Whether what the step does is taken back later."""
        ...

    def begins_trials(self, step: int) -> bool:
        """Whether the state in front of this step, a trial, is the one that trials go back to."""
        ...

    def goes_back(self, step: int) -> bool:
        """Whether a trial has ended, so that the run goes back to that state before this step."""
        ...

    def state(self) -> dict[str, list[float]]:
        """Numbers that the next step needs, by their names; a list may be empty."""
        ...

    def load(self, state: dict[str, list[float]]) -> None:
        """Go on from what `state` gave."""
        ...


class Feedback(Config):
    """A schedule of which no step's factor is known before its run comes there: runs share nothing with others of other totals.

    tries: whether some of its steps are trials that are taken back.
    """

    has_trials: ClassVar[bool] = False

    def follower(self, total_steps: int) -> Follower:
        """The schedule in a run of so many steps."""
        raise NotImplementedError
