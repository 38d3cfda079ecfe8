"""As it is made."""

from typing import Literal

from lm.config import Config


class Exact(Config):
    name: Literal["exact"] = "exact"

    def rounding(self) -> None:
        return None
