"""What every choice of teachers gives: models with their weights, and what a step asks of labels."""

from pathlib import Path

from lm.config import Config
from lm.model import Decoder
from lm.tokenizer import Tokenizer
from lm.training.components import Component


class Taught(Component):
    """The teachers of a run, as far as they change while it goes on."""

    name = "teachers"

    def at(self, step: int, student: Decoder) -> list[Decoder]:
        """The models that teach in a step, each with an equal share. Steps must be asked for in their order."""
        raise NotImplementedError


class Fixed(Taught):
    """Teachers that stay what they are."""

    def __init__(self, models: list[Decoder]) -> None:
        self._models = models

    def at(self, step: int, student: Decoder) -> list[Decoder]:
        return self._models


class Teachers(Config):
    @property
    def folder(self) -> Path | None:
        """The folder whose models teach too; None where no other does."""
        return None

    def open(self, start: Decoder, tokenizer: Tokenizer) -> Taught:
        """The teachers, of which `start` is the model that the stage begins with. Raises ConfigError for one that does not
        fit."""
        return Fixed([start])

    def labels(self, labels: float, step: int, steps: int) -> float:
        """The weight of the written tokens themselves in a step, of which `labels` is what the stage asks for."""
        return labels
