"""A student that begins from nothing, of any shape: Hinton et al. 2015 (arXiv:1503.02531)."""

from typing import Literal

from pydantic import Field, ValidationError

from lm.config import Config, ConfigError, mistakes
from lm.model import Decoder, ModelConfig
from tasks.distill.students.base import StudentInputs


class Fresh(Config):
    """Random weights in the teacher's kind of model and with its vocabulary; what is 0 is as the teacher has it."""

    name: Literal["fresh"] = "fresh"
    layers: int = Field(2, ge=0)
    width: int = Field(0, ge=0)
    heads: int = Field(0, ge=0)
    kv_heads: int = Field(0, ge=0)
    ffn_width: int = Field(0, ge=0)

    def shape(self, teacher: ModelConfig) -> ModelConfig:
        own = {name: value for name, value in self.model_dump(exclude={"name"}).items() if value}
        try:
            return ModelConfig.model_validate({**teacher.model_dump(), **own})
        except ValidationError as error:
            raise ConfigError(f"distill.student: {mistakes(error)}") from None

    def build(self, teacher: Decoder, seed: int, beside: StudentInputs | None = None) -> Decoder:
        return Decoder(self.shape(teacher.config), seed)
