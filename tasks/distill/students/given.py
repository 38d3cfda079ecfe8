"""A student that is a model of its own: another stage's, or somebody else's."""

from typing import Literal

from lm.config import Config, ConfigError
from lm.model import Decoder, ModelConfig
from lm.model_folder import read_bare
from tasks.core.config import CHECKPOINT, StartModel
from tasks.distill.students.base import StudentInputs

SLOT = "distill.student"


class Given(Config):
    """The model of a stage, such as `prune` of the teacher, or `checkpoint`: of our format or Hugging Face's, of any shape,
    with the teacher's tokenizer and at least its context."""

    name: Literal["given"] = "given"
    model: StartModel = CHECKPOINT

    def shape(self, teacher: ModelConfig) -> ModelConfig:
        raise NotImplementedError("params say it: tasks/distill/needs.py")

    def build(self, teacher: Decoder, seed: int, beside: StudentInputs | None = None) -> Decoder:
        """Raises ConfigError for a model that does not fit the teacher."""
        assert beside is not None
        try:
            model, tokenizer = read_bare(beside.folder)
        except ValueError as error:
            raise ConfigError(f"{SLOT}: {error}") from None
        if tokenizer.to_json() != beside.tokenizer.to_json():
            raise ConfigError(f"{SLOT}: {self.model} has another tokenizer than the model that is distilled")
        mine, theirs = model.config, teacher.config
        if mine.vocab_size != theirs.vocab_size:
            raise ConfigError(
                f"{SLOT}: {self.model} has rows for {mine.vocab_size} tokens, the model that is distilled for "
                f"{theirs.vocab_size}"
            )
        if mine.context < theirs.context:
            raise ConfigError(
                f"{SLOT}: {self.model} reads {mine.context} tokens, the model that is distilled {theirs.context}"
            )
        return model
