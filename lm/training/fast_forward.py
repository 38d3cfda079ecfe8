"""Fast Forward: the last update of the weights again and again, while a loss on data that no update has seen falls.

Rahamim et al. 2024, arXiv:2409.04206: after every few steps of the optimizer W_t + tau (W_t - W_(t-1)) for tau = 1, 2, ..., up
to the last tau with which the loss still fell. A stage costs forward passes alone; the paper finds it useful with LoRA and not
where all weights are trained.

Differs from the paper: the loss is that of the batch that the next step learns from, in place of 32 examples that are held out
for it, so that every stage of training has one and no data are lost; a bound on tau; and no end of the run where stages stop
helping, since a run has the steps that its parameters say. In reinforcement learning that loss is the surrogate one.
"""

from collections.abc import Callable

from pydantic import Field

from lm.config import Config


class FastForward(Config):
    every: int = Field(0, ge=0, description="steps of the optimizer from one stage to the next; 0: none; the paper: 6")
    most: int = Field(64, gt=0, description="times that an update is repeated at most")

    def due(self, step: int) -> bool:
        """Whether there is a stage before this step."""
        return self.every > 0 and step > 0 and step % self.every == 0


def furthest(loss_at: Callable[[int], float], most: int) -> int:
    """The number of repeats, `most` at most, up to which the loss falls with each; 0 where it does not with the first, or is
    not a number."""
    best = loss_at(0)
    for repeats in range(1, most + 1):
        now = loss_at(repeats)
        if not now < best:
            return repeats - 1
        best = now
    return most
