"""The whole model from the first step on."""

from typing import ClassVar, Literal

from lm.config import Config


class Whole(Config):
    name: Literal["whole"] = "whole"
    grows: ClassVar[bool] = False
