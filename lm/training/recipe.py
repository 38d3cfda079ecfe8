"""The parameters that every training stage has."""

from pydantic import Field

from lm import averages, optimizers, schedules
from lm.config import Config, choice


class Recipe(Config):
    """How weights move, whatever the loss."""

    optimizer: choice(optimizers)
    schedule: choice(schedules)
    average: choice(averages)
    clip: float = Field(1.0, gt=0, description="gradient norm")
