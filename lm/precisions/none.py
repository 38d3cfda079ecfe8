"""None: torch's layers as they are, whose products are of the numbers that `precision` says."""

from typing import Literal

from torch import nn

from lm.linears.base import LinearMethod


class Unrounded(LinearMethod):
    name: Literal["none"] = "none"

    def build(self, name: str, linear: nn.Linear) -> nn.Linear:
        return linear
