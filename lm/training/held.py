"""What the layers of a model that are held otherwise than dense do between steps, and keep."""

import torch
from torch import Tensor

from lm.config import ConfigError
from lm.model import Decoder
from lm.optimizers.base import Optimizer
from lm.training.average import RunningAverage
from lm.training.components import Component

# Slots that are means of gradients or of their squares: where weights begin anew, these may be cleared
MOMENTS = {"exp_avg", "exp_avg_sq", "momentum"}


def without_smallest(moment: Tensor, share: float) -> Tensor:
    """The tensor with this share of its numbers, rounded down, at 0: those of smallest magnitude, of equal ones the first."""
    gone = moment.abs().flatten().argsort(stable=True)[: int(share * moment.numel())]
    return moment.flatten().index_fill(0, gone, 0.0).view_as(moment)


class HeldLayers(Component):
    """The layers of a model, each told of every step; steps are their turns, one after the other.

    optimizer, mean: of the run, where there is one; a method that has its layers begin anew clears the moments, and begins the
    mean of what they train with them.
    """

    name = "linear"

    def __init__(self, model: Decoder, optimizer: Optimizer | None = None, mean: RunningAverage | None = None) -> None:
        self._method, self._layers, self._optimizer, self._mean = model.linear, model.held, optimizer, mean

    def begin(self, step: int) -> None:
        for number, layer in enumerate(self._layers.values()):
            layer.begin(step, step % len(self._layers) == number)
        if (share := self._method.clears(step)) is not None:
            self._clear(share)
        if (factor := self._method.factor(step)) != 1 and self._optimizer is not None:
            for group in self._optimizer.param_groups:
                group["lr"] *= factor

    @torch.no_grad()
    def _clear(self, share: float) -> None:
        """Raises ConfigError for an optimizer that keeps more of a weight than moments."""
        groups = [] if self._optimizer is None else self._optimizer.param_groups
        slots = {weight: set(group["slots"]) for group in groups for weight in group["params"]}
        for name, layer in self._layers.items():
            for own, weight in layer.named_parameters():
                if own == "bias" or weight not in slots:
                    continue
                if other := slots[weight] - MOMENTS - {"step"}:
                    raise ConfigError(
                        f"linear: the optimizer keeps {min(other)} of a weight, which cannot begin anew: take adamw or muon"
                    )
                state = self._optimizer.state[weight] if self._optimizer is not None else {}
                for slot in MOMENTS & state.keys():
                    state[slot].copy_(without_smallest(state[slot], share))
                if self._mean is not None and (mean := self._mean.mean.get(f"{name}.{own}")) is not None:
                    mean.copy_(weight)

    def after(self, step: int, loss: float, norm: float) -> None:
        self._method.after(step, self._layers)

    def state(self) -> dict[str, Tensor]:
        return {f"{name}.{key}": t for name, layer in self._layers.items() for key, t in layer.state().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        for name, layer in self._layers.items():
            layer.load({key: state[f"{name}.{key}"] for key in layer.state()})
