"""What a run keeps up from step to step beside weights, optimizer and average, and what a checkpoint holds of it."""

from torch import Tensor

from lm.training.average import RunningAverage
from lm.training.parallel.base import Parallel


class Component:
    """A part of a training run: a rollout that several updates learn from, masks that are chosen anew, a curriculum that looks
    at losses. A stage makes it and gives it to `train`; every method may stay as it is.

    name: what its tensors are called by in checkpoints, different from those of the run's other components. What it does must
    follow from what it is given here and in its state, so that a run that was killed goes on in the same bits. Every rank of a
    run has one, which is called with the same arguments and must come to the same state.
    """

    name: str

    def join(self, parallel: Parallel, mean: RunningAverage, steps: int) -> None:
        """Called once, before the run begins or goes on: with its model and optimizer, which the ranks hold, with the mean of
        its weights, and its length. Raises ConfigError where the component cannot be part of it."""

    def begin(self, step: int) -> None:
        """Called before the batch of a step is made."""

    def after(self, step: int, loss: float, norm: float) -> None:
        """Called when the weights have been updated, or the step skipped: with the loss and the norm of the gradients as they
        were before the clip."""

    def state(self) -> dict[str, Tensor]:
        """Tensors, of any names and shapes, that the next step needs; none where it needs nothing."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
