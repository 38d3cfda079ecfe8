"""Sliding windows that grow: early steps look back at few tokens, later ones at as many as the model's windows have.

No paper: modded-nanogpt's record of 2024-11-24 (the thirteenth) lets the window of its attention grow from 64 tokens to 1792 as
training goes on, and takes 4.66 minutes in place of 5.03. Differs from it: windows grow up to a step that is given and not to
the last one, a token at a time and not in blocks of 64, each layer's from its own share; and layers without a window see all.
"""

from pydantic import Field

from lm.config import Config
from lm.model import Decoder, ModelConfig
from lm.training.components import Component
from tasks.core.config import ConfigError


class WindowWarmup(Config):
    steps: int = Field(
        0, ge=0, description="in which windows grow from their first share to the whole; 0: they are whole"
    )
    begins: float = Field(0.25, gt=0, lt=1, description="share of each window in the first step")

    def share(self, step: int) -> float:
        """The part of each window that a step sees."""
        return 1.0 if step >= self.steps else self.begins + (1 - self.begins) * step / self.steps

    def check(self, model: ModelConfig, steps: int) -> None:
        """Raise ConfigError unless the model has windows, all of which can grow, and are whole in the last of so many steps."""
        if not self.steps:
            return
        layers = [model.layer(index) for index in range(model.layers)]
        windows = [index for index, layer in enumerate(layers) if layer.mixer.narrowed(0.0) is not None]
        if past := [index for index in windows if layers[index].depths is not None]:
            raise ConfigError(
                f"pretrain.window_warmup.steps: the window of layer {past[0]} cannot grow, as tokens go past the layer: take "
                "depths from it in model.pattern, or 0"
            )
        if not windows:
            raise ConfigError(
                "pretrain.window_warmup.steps: no layer of the model has a window that could grow: use a mixer that has one, "
                "such as sliding_window, or 0"
            )
        if self.steps >= steps:
            raise ConfigError(
                f"pretrain.window_warmup.steps: {self.steps} is no less than the {steps} steps of the plan, of which none "
                "would see whole windows"
            )


class Windows(Component):
    """Sets the model's windows before each step. It keeps nothing: what they are follows from the step alone."""

    name = "windows"

    def __init__(self, model: Decoder, warmup: WindowWarmup) -> None:
        self._model, self._warmup = model, warmup

    def begin(self, step: int) -> None:
        self._model.narrow_windows(self._warmup.share(step))
