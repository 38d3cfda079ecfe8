"""Conversations are read as they are."""

from typing import Literal

from tasks.sft.corruptions.base import Corruption


class Untouched(Corruption):
    name: Literal["untouched"] = "untouched"
