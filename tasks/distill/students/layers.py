"""A student of some of the teacher's layers: DistilBERT, Sanh et al. 2019 (arXiv:1910.01108), section 3."""

from typing import Literal

from pydantic import Field

from lm.config import Config, ConfigError
from lm.model import Decoder, ModelConfig
from tasks.distill.students.base import StudentInputs


def taken_layers(teacher: int, student: int) -> list[int]:
    """Numbers of the teacher's layers that a student begins with: evenly spaced, the first and the last among them."""
    return [round(mine * (teacher - 1) / max(student - 1, 1)) for mine in range(student)]


class Layers(Config):
    """Evenly spaced layers of the teacher, the first and the last among them, and its embeddings and norms. Differs from the
    paper: any number of layers, where it takes one of two."""

    name: Literal["layers"] = "layers"
    layers: int = Field(2, gt=0, description="of the student; fewer than the teacher's")

    def shape(self, teacher: ModelConfig) -> ModelConfig:
        return teacher.select_layers(taken_layers(teacher.layers, self.layers))

    def build(self, teacher: Decoder, seed: int, beside: StudentInputs | None = None) -> Decoder:
        if self.layers >= teacher.config.layers:
            raise ConfigError(
                f"distill.student.layers: {self.layers} is no fewer than the teacher's {teacher.config.layers}; lower it"
            )
        return teacher.select_layers(taken_layers(teacher.config.layers, self.layers))
