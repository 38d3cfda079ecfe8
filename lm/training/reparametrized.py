"""What the layers of a model that are held otherwise than dense do between steps, and keep."""

from typing import Any

import torch
from torch import Tensor

from lm.config import ConfigError
from lm.linears.base import LinearMethod
from lm.model import Decoder
from lm.optimizers.base import Optimizer
from lm.training.average import RunningAverage
from lm.training.components import Component

# Slots that are means of gradients or of their squares: where weights begin anew, these may be cleared, all of a weight at the
# places where the first of them that it has is smallest
MOMENTS = ("exp_avg", "momentum", "exp_avg_sq")


def smallest(moment: Tensor, share: float) -> Tensor:
    """Whether each number is of this share of them, rounded down: those of smallest magnitude, of equal ones the first."""
    found = moment.abs().flatten().argsort(stable=True)[: int(share * moment.numel())]
    return (
        torch.zeros(moment.numel(), dtype=torch.bool, device=moment.device).index_fill(0, found, True).view_as(moment)
    )


class ReparametrizedLayers(Component):
    """The layers of a model, each told of every step; steps are their turns, one after the other.

    optimizer, mean: of the run, where there is one; a method that has its layers begin anew clears the moments, and begins the
    mean of what they train with them. Raises ConfigError for an optimizer whose state cannot begin anew so: it keeps more of a
    weight than moments, or has parts of weights in the place of the layers' own; and for one that looks at whole tensors where
    the layers pack other numbers in theirs.
    """

    name = "linear"

    def __init__(self, model: Decoder, optimizer: Optimizer | None = None, mean: RunningAverage | None = None) -> None:
        self._method: Any = model.linear
        self._layers, self._optimizer, self._mean = model.held, optimizer, mean
        # what begins anew, by the parameter's name; taken now, since an optimizer may say later which weights have gradients
        self._anew: dict[str, Tensor] = {}
        if optimizer is not None:
            self._refuse(optimizer)
        if optimizer is not None and type(self._method).clears is not LinearMethod.clears:
            self._anew = self._whole(optimizer)

    def _refuse(self, optimizer: Optimizer) -> None:
        """Raises ConfigError where it would take what stands in a matrix's place for the matrix."""
        if self._method.packs() and optimizer.whole_tensors:
            raise ConfigError(
                f"linear: {self._method.name} puts other numbers in a matrix's place, which the optimizer would take for a "
                "matrix: take adamw without cautious"
            )

    def begin(self, step: int) -> None:
        for number, layer in enumerate(self._layers.values()):
            layer.begin(step, step % len(self._layers) == number)
        if (share := self._method.clears(step, self._layers)) is not None:
            self._clear(share)
        if (factor := self._method.factor(step, self._layers)) != 1 and self._optimizer is not None:
            for group in self._optimizer.param_groups:
                group["lr"] *= factor

    def _whole(self, optimizer: Optimizer) -> dict[str, Tensor]:
        """The layers' weights that are trained, without their biases, by their names."""
        slots = {weight: set(group["slots"]) for group in optimizer.param_groups for weight in group["params"]}
        found: dict[str, Tensor] = {}
        for name, layer in self._layers.items():
            for own, weight in layer.named_parameters():
                if own == "bias" or not weight.requires_grad:
                    continue
                if weight not in slots:
                    raise ConfigError(
                        f"linear: {self._method.name} needs whole matrices: set TOKENMILL_PARALLEL to exact or ddp"
                    )
                if other := (slots[weight] | {*optimizer.own_slots}) - {*MOMENTS, "step"}:
                    raise ConfigError(
                        f"linear: the optimizer keeps {min(other)} of a weight, which cannot begin anew: take adamw"
                    )
                found[f"{name}.{own}"] = weight
        return found

    @torch.no_grad()
    def _clear(self, share: float) -> None:
        for name, weight in self._anew.items():
            state = self._optimizer.state[weight] if self._optimizer is not None else {}
            if moments := [state[slot] for slot in MOMENTS if slot in state]:
                gone = smallest(moments[0], share)  # of all at once: a mean without its square would be divided by 0
                for moment in moments:
                    moment.masked_fill_(gone, 0.0)
            if self._mean is not None and (mean := self._mean.mean.get(name)) is not None:
                mean.copy_(weight)

    def after(self, step: int, loss: float, norm: float) -> None:
        self._method.after(step, self._layers)

    def state(self) -> dict[str, Tensor]:
        return {f"{name}.{key}": t for name, layer in self._layers.items() for key, t in layer.state().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        for name, layer in self._layers.items():
            layer.load({key: state[f"{name}.{key}"] for key in layer.state()})
