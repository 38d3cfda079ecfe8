"""Examples are written as they are."""

from typing import Literal

from tasks.sft.formats.base import Format


class Plain(Format):
    name: Literal["plain"] = "plain"
