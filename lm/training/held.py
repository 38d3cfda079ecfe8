"""What the layers of a model that are held otherwise than dense do between steps, and keep."""

from torch import Tensor

from lm.model import Decoder
from lm.training.components import Component


class HeldLayers(Component):
    """The layers of a model, each told of every step; steps are their turns, one after the other."""

    name = "linear"

    def __init__(self, model: Decoder) -> None:
        self._method, self._layers = model.linear, model.held

    def begin(self, step: int) -> None:
        for number, layer in enumerate(self._layers.values()):
            layer.begin(step, step % len(self._layers) == number)

    def after(self, step: int, loss: float, norm: float) -> None:
        self._method.after(step, self._layers)

    def state(self) -> dict[str, Tensor]:
        return {f"{name}.{key}": t for name, layer in self._layers.items() for key, t in layer.state().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        for name, layer in self._layers.items():
            layer.load({key: state[f"{name}.{key}"] for key in layer.state()})
