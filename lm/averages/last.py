"""The weights as the last update leaves them."""

from typing import Literal

from lm.config import Config


class Last(Config):
    name: Literal["last"] = "last"

    def __call__(self, step: int, total_steps: int) -> float:
        return 1.0 if step == total_steps - 1 else 0.0
