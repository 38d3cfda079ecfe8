"""The model in data/<distill.model> alone, read anew in every step."""

from typing import Literal

from tasks.distill.teachers.base import Teachers


class Alone(Teachers):
    name: Literal["alone"] = "alone"
