"""Dense: torch's layer as it is, of which every number is trained."""

from typing import Literal

from torch import nn

from lm.linears.base import LinearMethod


class Dense(LinearMethod):
    name: Literal["dense"] = "dense"

    def build(self, name: str, linear: nn.Linear) -> nn.Linear:
        return linear
