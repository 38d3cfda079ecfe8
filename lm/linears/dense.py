"""Dense: torch's layer as it is, of which every number is trained."""

from typing import ClassVar, Literal

from torch import nn

from lm.config import Config


class Dense(Config):
    name: Literal["dense"] = "dense"

    alone: ClassVar[bool] = False  # True: nothing of the model is trained but what the layers have of their own

    def build(self, name: str, linear: nn.Linear) -> nn.Linear:
        """The layer itself."""
        return linear
