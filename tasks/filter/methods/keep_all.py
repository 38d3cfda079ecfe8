"""No filter: everything stays."""

from typing import ClassVar, Literal

from lm.config import Config


class KeepAll(Config):
    name: Literal["keep_all"] = "keep_all"
    sources: ClassVar[None] = None

    def __call__(self, text: str) -> str | None:
        return None
