"""The stages of Fast Forward in a run: which update they repeat, and what a checkpoint holds of it."""

import torch
from torch import Tensor

from lm.training.batch import Batch
from lm.training.components import Component
from lm.training.fast_forward import FastForward, furthest
from lm.training.parallel.base import Parallel


class Forwarding(Component):
    """Beside the weights it keeps those before the last update, from that update until the stage that follows it.

    Raises ConfigError where weights cannot be moved (`Parallel.must_move`).
    """

    name = "fast_forward"

    def __init__(self, method: FastForward, parallel: Parallel) -> None:
        self._method, self._parallel, self._step = method, parallel, 0
        self._before: dict[str, Tensor] = {}  # this rank's parts of the weights
        if method.every:
            parallel.must_move(self.name)

    def begin(self, step: int) -> None:
        self._step = step

    @torch.no_grad()
    def stage(self, batch: Batch, positions: int) -> dict[str, float]:
        """What there is to say of the step that has begun, whose batch this is: `forwarded`, the number of repeats, where
        there is a stage before it. positions: that a pass holds at most."""
        if not self._before:
            return {}
        weights = self._parallel.trainable_parameters()
        start = {name: weight.clone() for name, weight in weights.items()}
        update = {name: weight - self._before[name] for name, weight in weights.items()}
        self._before = {}

        def loss_at(repeats: int) -> float:
            self._move(weights, start, update, repeats)
            return float(self._parallel.evaluate(batch, positions))

        found = furthest(loss_at, self._method.most)
        self._move(weights, start, update, found)
        return {"forwarded": float(found)}

    def before_update(self) -> None:
        """Called before the weights are updated in the step that has begun."""
        if self._method.due(self._step + 1):
            self._before = {
                name: weight.detach().clone() for name, weight in self._parallel.trainable_parameters().items()
            }

    def state(self) -> dict[str, Tensor]:
        return {name: self._parallel.gather(name, weight) for name, weight in self._before.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        held = self._parallel.local_parameters()
        self._before = {
            name: self._parallel.shard(name, weight).to(held[name].device, copy=True) for name, weight in state.items()
        }

    def _move(
        self, weights: dict[str, Tensor], start: dict[str, Tensor], update: dict[str, Tensor], repeats: int
    ) -> None:
        for name, weight in weights.items():
            weight.copy_(start[name])
            if repeats:
                weight.add_(update[name], alpha=repeats)
        # casts of the weights as they were, which have no gradients either
        torch.clear_autocast_cache()
        self._parallel.moved()
