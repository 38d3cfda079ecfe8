"""Every problem once in each pass, in an order that is new in every pass."""

from typing import Literal

from tasks.rl.curricula.base import Curriculum


class Shuffled(Curriculum):
    name: Literal["shuffled"] = "shuffled"
