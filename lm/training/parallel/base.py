"""What the loop asks of the ranks that train one model together."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lm.config import ConfigError
from lm.distributed import world_size
from lm.linears.base import rates_of, roles_of
from lm.model import Decoder
from lm.optimizers.base import SCALARS, Optimizer, with_rates
from lm.training.batch import Batch, Metrics

Result = TypeVar("Result")


class Parallel(ABC):
    """The ranks that train a model together. Here every rank holds all weights; what is different where it does not, a subclass
    says.

    Every rank calls the same methods in the same order, since they may exchange tensors. `whole` tensors are as one process
    would have them, whatever a rank holds.
    """

    # of memory that a rank has for a weight that is trained: itself in fp32, gradient, two moments and a running average;
    # `distribute` takes away what moments in fewer bits spare, and adds an optimizer's squares over rows and columns
    bytes_a_weight = 20.0
    # and for one that is not
    bytes_a_frozen_weight = 4.0
    # how it goes from one part of a rank's rows to the next, where that follows from the memory and decides the order of sums
    between_parts = ""
    # whether `local_parameters` may be changed between two passes
    can_move = True

    def distribute(self, model: Decoder, method: Any) -> Optimizer:
        """Spread the model over the ranks, in place, and build the method's optimizer of what this rank holds."""
        named = [(n, w) for n, w in model.named_parameters() if w.requires_grad]
        optimizer = with_rates(method.build(named, roles_of(model)), named, rates_of(model))
        self.bytes_a_weight = type(self).bytes_a_weight - optimizer.bytes_spared() + optimizer.bytes_of_squares()
        self._know(model, optimizer, dict(model.named_parameters()), model.state_dict())
        return optimizer

    def _know(self, model: Decoder, optimizer: Optimizer, given: dict[str, Any], weights: dict[str, Tensor]) -> None:
        """Hold both, and what a checkpoint of them has: the shape of each weight, as a meta tensor, and the slots of those
        that were given to the optimizer; `frozen_names` are the parameters that were not."""
        self.model, self.optimizer = model, optimizer
        self.shapes = {name: weight.to("meta") for name, weight in weights.items()}
        slots = {weight: group["slots"] for group in optimizer.param_groups for weight in group["params"]}
        self.slot_names = {name: slots[weight] for name, weight in given.items() if weight in slots}
        self.frozen_names = given.keys() - self.slot_names.keys()

    def call(self, call: Callable[[], Result]) -> Result:
        """The result of a call that uses the model other than in a batch's loss."""
        return call()

    def memory_share(self, device: torch.device) -> float:
        """The part of the device's memory that this rank may use: ranks have a GPU each and share a machine's memory."""
        return 1.0 if device.type == "cuda" else 1 / world_size()

    @abstractmethod
    def backward(self, batch: Batch, positions: int) -> tuple[Tensor, Metrics]:
        """(loss, metrics) of the whole batch, the same on every rank; the gradients are then ready for `clip` and `step`.

        Raises ConfigError for a batch that the ranks cannot divide.
        """

    @abstractmethod
    def evaluate(self, batch: Batch, positions: int) -> Tensor:
        """Loss of the whole batch under the weights as they are, the same on every rank, without gradients and without what
        the model adds to it. Raises ConfigError for a batch that the ranks cannot divide."""

    def must_move(self, asker: str) -> None:
        """Raises ConfigError where the weights cannot be changed other than by `step`, as `asker`, a section of the recipe,
        would: for ranks that have them in the optimizer's own pieces, and for an optimizer of which the weights are no more
        than a step on the way."""
        if not self.can_move:
            raise ConfigError(
                f"{asker}: ZeRO keeps weights in pieces of its own: set TOKENMILL_PARALLEL to fsdp or ddp"
            )
        if type(self.optimizer).finish is not Optimizer.finish and not self.optimizer.freezes:
            raise ConfigError(f"{asker}: the optimizer makes the model's weights at the end of a run: take another one")

    def moved(self) -> None:  # noqa: B027, most have nothing to do
        """Called when `local_parameters` have been changed other than by `step`."""

    def clip(self, limit: float) -> Tensor:
        """Scale the gradients down to a norm of `limit`; returns the norm they had."""
        return torch.nn.utils.clip_grad_norm_(self.local_parameters().values(), limit)

    def step(self) -> None:
        """Update the weights."""
        self.optimizer.step()

    def zero_grad(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def local_parameters(self) -> dict[str, Tensor]:
        """What this rank updates of each parameter, by the parameter's name."""
        return dict(self.model.named_parameters())

    def trainable_parameters(self) -> dict[str, Tensor]:
        """What this rank updates of each parameter that is trained, by its name."""
        return {name: weight for name, weight in self.local_parameters().items() if name not in self.frozen_names}

    def gather(self, name: str, held: Tensor) -> Tensor:
        """A tensor of this parameter's shape, of which this rank has the part that it updates."""
        return held

    def shard(self, name: str, whole: Tensor) -> Tensor:
        """The part of a whole tensor that this rank updates."""
        return whole

    def slots(self) -> dict[str, Tensor]:
        """The optimizer's state as <slot>.<parameter>, whole."""
        found = {}
        for name, weight in self.local_parameters().items():
            for slot, value in self.optimizer.state.get(weight, {}).items():
                found[f"{slot}.{name}"] = value if slot in SCALARS else self.gather(name, value)
        return found

    def load_optimizer_state(self, slots: dict[str, Tensor]) -> None:
        """Bring the optimizer to the state of `slots()`, whatever ranks it came from."""
        self.optimizer.state.clear()
        held = self.local_parameters()
        for key, value in slots.items():
            slot, _, name = key.partition(".")
            weight = held[name]
            found = value if slot in SCALARS else self.shard(name, value)
            self.optimizer.state[weight][slot] = found.to("cpu" if slot in SCALARS else weight.device, copy=True)

    def weights(self) -> dict[str, Tensor]:
        """The model's state, whole."""
        return self.model.state_dict()

    def load_model_state(self, weights: dict[str, Tensor]) -> None:
        """Bring the model to a whole state, in which the parameters that are not trained may be missing."""
        self.model.load_state_dict(weights, strict=False)

    def finish(self) -> None:
        """Make the model a plain one again, with all weights on every rank, in evaluation mode."""
        self.model.eval()

    def all_reduce_min(self, value: int) -> int:
        """Smallest of the ranks' values."""
        return _reduced([value], dist.ReduceOp.MIN)[0]

    def any(self, *flags: bool) -> list[bool]:
        """Whether any rank has a flag set, for each flag."""
        return [value > 0 for value in _reduced([int(flag) for flag in flags], dist.ReduceOp.MAX)]


def _reduced(values: list[int], by: Any) -> list[int]:
    if world_size() == 1:
        return values
    tensor = torch.tensor(values)
    dist.all_reduce(tensor, by)
    return tensor.tolist()
