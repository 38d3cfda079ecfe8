"""Rollouts alone."""

from typing import Literal

from tasks.rl.demonstrations.base import Demonstrations


class Unused(Demonstrations):
    name: Literal["unused"] = "unused"
