"""What a mixer says of itself beside what every part does: what it keeps of the tokens before, and what its layers share."""

from abc import abstractmethod
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from lm.config import ConfigError
from lm.context import Context
from lm.parts import Part
from lm.quantized.inputs import Rounding
from lm.shape import Shape


class State(Protocol):
    """What one layer keeps of the tokens of each row."""

    def take(self, rows: Tensor, other: Any, theirs: Tensor) -> None:
        """Have these rows begin as those of another state, whose capacity is no larger."""


class Mixer(Part):
    """has_values: it mixes values that context.values may add to. both_ways: it can look at tokens behind its own, too, where
    the shape is not causal. heads_alike: what a head does depends on its weights alone, and not on its number among heads."""

    has_values: ClassVar[bool] = False
    both_ways: ClassVar[bool] = False
    heads_alike: ClassVar[bool] = True

    def check(self, shape: Shape, index: int) -> None:
        """Raises ValueError where it cannot be the mixer of this layer of the shape."""
        if not (shape.causal or self.both_ways):
            name = self.name  # type: ignore[attr-defined]
            raise ValueError(f"causal: false is for attention in all layers, and layer {index} has {name}")

    @abstractmethod
    def state(self, shape: Shape, rows: int, capacity: int, device: torch.device | None, dtype: torch.dtype) -> State:
        """The state of one layer for rows of up to `capacity` tokens, none of which has any yet. Its tensors stay where they
        are, so that a step over them can be replayed."""

    def rounded_state(
        self, shape: Shape, rows: int, capacity: int, device: torch.device | None, rounding: Rounding
    ) -> State:
        """The state of one layer in whole numbers. Raises ConfigError where the mixer has no such state."""
        raise ConfigError(f"a model with {self.name} keeps its state as it is: set quantize.cache to {{name: exact}}")  # type: ignore[attr-defined]

    @abstractmethod
    def state_numel(self, shape: Shape, tokens: float) -> float:
        """Numbers that a layer's state has, and a step reads, for a row of so many tokens."""

    def narrowed(self, share: float) -> "Mixer | None":
        """The mixer with this share of its window, one token at the least; None where it has no window."""
        return None

    def prepare(self, shape: Shape, context: Context, rows: int, length: int) -> Any:
        """What all layers of this kind share in a pass over `rows` x `length` tokens, as context.shared: made once and outside
        of compiled code. context.state is that of the first of these layers."""
        return None
