"""The lower layers stay as they are, with the embedding, and the backward ends above them.

Gowda et al. 2023, arXiv:2306.04822. Nothing of what stays keeps an activation for a backward. Differs from the paper, which
freezes the image encoder of a video model below a temporal one: both halves are layers of one decoder and begin as they were
trained, so that no adapter leads from one to the other, and a dense model could not end with it. A head that is the embedding
stays, too.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lm.config import ConfigError
from lm.linears.base import LinearMethod, ReparametrizedLinear


class StillLinear(ReparametrizedLinear):
    """torch's layer, of a block through which nothing is sent back."""

    def __init__(self, linear: nn.Linear) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def flops(self) -> float:
        """FLOP of its forward alone."""
        return 2.0 * self.weight.numel()

    def dense(self) -> Tensor:
        return self.weight


class FrozenLower(LinearMethod):
    name: Literal["frozen_lower"] = "frozen_lower"
    share: float = Field(0.5, gt=0, lt=1, description="of the layers, from the first on, is not trained; rounded down")

    def check(self, names: list[str]) -> None:
        layers = 1 + max(_layer_of(f"blocks.{name}") for name in names)
        if not int(self.share * layers):
            raise ConfigError(f"linear.share: {self.share:g} of {layers} layers is none: raise it")

    def frozen_parameters(self, names: list[str]) -> set[str]:
        layers = 1 + max(map(_layer_of, names))
        below = ("embedding.", "of_input.")
        return {name for name in names if name.startswith(below) or -1 < _layer_of(name) < int(self.share * layers)}

    def build(self, name: str, linear: nn.Linear) -> nn.Linear:
        """A layer that says what it costs, where the weight is not trained."""
        return linear if linear.weight.requires_grad else StillLinear(linear)


def _layer_of(name: str) -> int:
    """Number of the layer that a parameter or a module is in; -1 outside of the blocks."""
    place, _, rest = name.partition(".")
    return int(rest.partition(".")[0]) if place == "blocks" else -1
