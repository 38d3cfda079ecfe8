"""A model that grows while it trains: which blocks take part in a step, and what becomes of weights, their running mean and the
optimizer's state when new ones come in."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lm.config import ConfigError
from lm.depth import Coalesced, Depth, Grown, Growth, Interpolated
from lm.linears import Dense
from lm.model import HEADS, Decoder
from lm.training.average import RunningAverage
from lm.training.components import Component
from lm.training.parallel.base import Parallel
from lm.training.parallel.exact import Exact
from lm.training.v_cycle import coalesce_, interpolate_, saved_weights


class Growing(Component):
    """The growth of a run's model. All follows from the step: a checkpoint that was written before a growth comes back with the
    layers as they were, and grows when the step begins. It holds nothing of the growth but, between the two ways of a V-cycle,
    what weights were before."""

    name = "growth"

    def __init__(self, method: Growth) -> None:
        self._method = method
        self._before: dict[str, Tensor] = {}

    def join(self, parallel: Parallel, mean: RunningAverage, steps: int) -> None:
        """Raises ConfigError for what does not go with a growth."""
        self._model, self._optimizer, self._mean, self._steps = parallel.model, parallel.optimizer, mean, steps
        self._parallel = parallel
        if not isinstance(parallel, Exact):
            raise ConfigError("growth: layers come in as it trains: set TOKENMILL_PARALLEL to exact")
        linear: Any = self._model.linear
        if not isinstance(linear, Dense):
            raise ConfigError(f"growth: matrices must be dense, not {linear.name}: set linear to dense")
        if hasattr(self._model, HEADS):
            raise ConfigError("growth: the objective's heads stand on the last layer: set objective to next_token")
        if self._optimizer.freezes:
            raise ConfigError("growth: the optimizer chooses the weights of a step itself: take another one")
        if self._optimizer.exchanges:
            raise ConfigError("growth: the optimizer counts the updates of all weights as one: take another one")

    def begin(self, step: int) -> None:
        layers = len(self._model.blocks)
        for change in self._method.grown(layers, step, self._steps):
            if isinstance(change, Grown):
                self._grow(change)
            else:
                self._cycle(change)
        self._set(self._method.depth(layers, step, self._steps))

    def after(self, step: int, loss: float, norm: float) -> None:
        if step + 1 == self._steps:
            self._set(None)

    def state(self) -> dict[str, Tensor]:
        return self._before

    def load(self, state: dict[str, Tensor]) -> None:
        device = self._model.embedding.weight.device
        self._before = {name: tensor.to(device, copy=True) for name, tensor in state.items()}

    def _set(self, depth: Depth | None) -> None:
        self._model.depth = depth
        for number, block in enumerate(self._model.blocks):
            block.requires_grad_(depth is None or (number in depth.blocks and number not in depth.frozen))

    @torch.no_grad()
    def _grow(self, growth: Grown) -> None:
        self._parallel.zero_grad()  # their memory is that of the copies
        moved = {block: source for block, source in enumerate(growth.sources) if source != block}
        # one block may be the source of many, and itself become another
        kept = {source: self._kept(source) for source in set(moved.values())}
        for block, source in moved.items():
            self._put(block, *kept[source])
        for block in growth.fresh:
            for weight in self._model.blocks[block].parameters():
                self._optimizer.state.pop(weight, None)

    @torch.no_grad()
    def _cycle(self, change: Coalesced | Interpolated) -> None:
        self._parallel.zero_grad()
        weights = dict(self._model.named_parameters())
        held: list[Any] = [each for each in (self._mean.mean, weights) if each]
        if isinstance(change, Coalesced):
            self._before = {name: weight.clone() for name, weight in saved_weights(self._model, change.groups).items()}
            for tensors in held:
                coalesce_(tensors, change)
        else:
            before = {**weights, **self._before}  # blocks that waited are what they were
            for tensors in held:  # the mean first, while they still are
                interpolate_(tensors, before, change)
            self._before = {}
        self._optimizer.state.clear()

    def _kept(self, block: int) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]], dict[str, Tensor]]:
        """(weights and buffers, optimizer's state, mean) of a block, by names within it, as copies."""
        whole: nn.Module = self._model.blocks[block]
        weights = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
        state: dict[str, Any] = {name: self._optimizer.state.get(w, {}) for name, w in whole.named_parameters()}
        state = {name: {slot: value.clone() for slot, value in slots.items()} for name, slots in state.items()}
        mean = {name: self._mean.mean.get(f"blocks.{block}.{name}") for name in state}
        return weights, state, {name: value.clone() for name, value in mean.items() if value is not None}

    def _put(
        self, block: int, weights: dict[str, Tensor], state: dict[str, dict[str, Tensor]], mean: dict[str, Tensor]
    ) -> None:
        whole: nn.Module = self._model.blocks[block]
        for name, tensor in whole.state_dict().items():
            tensor.copy_(weights[name])
        for name, weight in whole.named_parameters():
            self._optimizer.state.pop(weight, None)
            if state[name]:
                self._optimizer.state[weight] = {slot: value.clone() for slot, value in state[name].items()}
        for name, value in mean.items():
            self._mean.mean[f"blocks.{block}.{name}"].copy_(value)


@contextmanager
def at_full_depth(model: Decoder) -> Iterator[None]:
    """Within it a pass goes through the whole model, all of which is trained, however far it has grown."""
    depth, waiting = model.depth, [weight for weight in model.blocks.parameters() if not weight.requires_grad]
    if depth is None:
        yield
        return
    model.depth = None
    for weight in waiting:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        model.depth = depth
        for weight in waiting:
            weight.requires_grad_(False)
