"""A student that begins as the teacher itself: what a model that teaches itself is, or one that others teach."""

from typing import Literal

from lm.config import Config
from lm.model import Decoder, ModelConfig
from tasks.distill.students.base import StudentInputs


class Whole(Config):
    """A student that is no smaller, for where something else than the model itself teaches it: its past, others beside it, or
    labels."""

    name: Literal["whole"] = "whole"

    def shape(self, teacher: ModelConfig) -> ModelConfig:
        return teacher

    def build(self, teacher: Decoder, seed: int, beside: StudentInputs | None = None) -> Decoder:
        student = Decoder(teacher.config)
        student.load_state_dict(teacher.state_dict())
        return student
