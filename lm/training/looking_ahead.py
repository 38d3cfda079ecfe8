"""The mean movement of a run's weights, by which they look ahead, and what a checkpoint holds of it."""

from collections.abc import Callable

import torch
from torch import Tensor

from lm.training.components import Component
from lm.training.lookahead import Lookahead
from lm.training.parallel.base import Parallel


class LookingAhead(Component):
    """Beside the weights it keeps the mean of their movements, and during a step those that it began with. factor: of the
    schedule, by step.

    Raises ConfigError where weights cannot be moved (`Parallel.must_move`).
    """

    name = "lookahead"

    def __init__(self, method: Lookahead, parallel: Parallel, factor: Callable[[int], float]) -> None:
        self._method, self._parallel, self._factor = method, parallel, factor
        self._mean: dict[str, Tensor] = {}  # this rank's parts
        self._before: dict[str, Tensor] = {}
        if method.share:
            parallel.must_move(self.name)

    @torch.no_grad()
    def begin(self, step: int) -> None:
        if not self._method.share:
            return
        weights = self._parallel.trainable_parameters()
        self._before = {name: weight.detach().clone() for name, weight in weights.items()}
        share = self._method.at(step, self._factor(step))
        if not share or not self._mean:
            return
        for name, weight in weights.items():
            weight.add_(self._mean[name], alpha=share)
        # casts of the weights as they were
        torch.clear_autocast_cache()
        self._parallel.moved()

    @torch.no_grad()
    def after(self, step: int, loss: float, norm: float) -> None:
        if not self._method.share:
            return
        weights = self._parallel.trainable_parameters()
        if not self._mean:
            self._mean = {name: torch.zeros_like(weight) for name, weight in self._before.items()}
        for name, weight in weights.items():
            self._mean[name].lerp_(weight.detach() - self._before[name], 1 - self._method.memory)
        self._before = {}

    def state(self) -> dict[str, Tensor]:
        return {name: self._parallel.gather(name, mean) for name, mean in self._mean.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        held = self._parallel.local_parameters()
        self._mean = {
            name: self._parallel.shard(name, mean).to(held[name].device, copy=True) for name, mean in state.items()
        }
