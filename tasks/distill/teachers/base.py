"""What every choice of teachers gives: models with their weights, and what a step asks of labels."""

from pathlib import Path
from typing import Any, ClassVar

from lm.config import Config
from lm.distilling.targets import Row
from lm.model import Decoder
from lm.tokenizer import Tokenizer
from lm.training.components import Component


class TeacherState(Component):
    """The teachers of a run, as far as they change while it goes on."""

    name = "teachers"

    def models_at(self, step: int, student: Decoder) -> list[Decoder]:
        """The models that teach in a step, each with an equal share. Steps must be asked for in their order."""
        raise NotImplementedError

    def stored(self, step: int) -> list[Row] | None:
        """What is stored of what the teachers say in a step, problems first, then text; None where they say it themselves."""
        return None


class FixedTeachers(TeacherState):
    """Teachers that stay what they are."""

    def __init__(self, models: list[Decoder]) -> None:
        self._models = models

    def models_at(self, step: int, student: Decoder) -> list[Decoder]:
        return self._models


class Teachers(Config):
    """follows: whether what teaches is made of the student while the run goes on."""

    follows: ClassVar[bool] = False

    @property
    def folder(self) -> Path | None:
        """The folder whose models teach too; None where no other does."""
        return None

    def open(self, start: Decoder, tokenizer: Tokenizer, data: Path = Path("data"), asked: Any = None) -> TeacherState:
        """The teachers, of which `start` is the model that the stage begins with. data: the folder of the stage's inputs;
        asked: its parameters, which targets that are stored must fit. Raises ConfigError for one that does not fit."""
        return FixedTeachers([start])

    def label_weight(self, labels: float, step: int, steps: int) -> float:
        """The weight of the written tokens themselves in a step, of which `labels` is what the stage asks for."""
        return labels
