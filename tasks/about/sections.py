"""params.yaml as one stage asks about others: their sections, and the shapes of the models that they make."""

from pathlib import Path
from typing import Any

from lm.hugging_face.load import config_of as shape_in
from lm.model import ModelConfig
from lm.tokenizer import SPECIALS, Tokenizer
from tasks.core.config import CHECKPOINT, ConfigError, load
from tasks.runner.rooms import config_of, part_of, room_of


class Sections:
    """Each section is read once, by the class of its stage's room."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params
        self._configs: dict[str, Any] = {}
        self._asked: list[str] = []

    def __getitem__(self, stage: str) -> Any:
        """The section of a stage. Raises ConfigError with a line a mistake."""
        if stage not in self._configs:
            self._configs[stage] = load(stage, config_of(stage), self.params)
        return self._configs[stage]

    def starts_from(self, stage: str) -> str | None:
        """The model that a stage begins with, by the name of what makes it; None where it begins with none of another's."""
        name = getattr(self[stage], "model", None)
        return name if isinstance(name, str) else None

    def shape(self, model: str) -> ModelConfig:
        """Shape of the model of this name: a stage's, or the checkpoint. Raises ConfigError where there is none."""
        if model == CHECKPOINT:
            return self.checkpoint_shape()
        if model in self._asked:
            raise ConfigError(
                f"params.yaml: {model}.model: {' <- '.join([*self._asked, model])} goes round in a circle"
            )
        if not room_of(model):
            raise ConfigError(f"params.yaml: no stage {model!r} makes a model")
        self._asked.append(model)
        try:
            needs = part_of(model, "needs")
            if needs and hasattr(needs, "shape"):
                return needs.shape(self)
            if (start := self.starts_from(model)) is None:
                raise ConfigError(f"params.yaml: the stage {model} makes no model")
            return self.shape(start)
        finally:
            self._asked.pop()

    def start_shape(self, stage: str) -> ModelConfig:
        """Shape of the model that a stage begins with."""
        start = self.starts_from(stage)
        if start is None:
            raise ConfigError(f"params.yaml: {stage}: begins with no model")
        return self.shape(start)

    def checkpoint_folder(self) -> Path:
        """Where the model of somebody else's lies."""
        return Path(self.params["checkpoint"]["folder"])

    def checkpoint_shape(self) -> ModelConfig:
        """Shape of the model in checkpoint.folder, with rows for all tokens of its tokenizer. Raises ConfigError naming the
        file."""
        folder = self.checkpoint_folder()
        try:
            shape, tokens = shape_in(folder), Tokenizer.adopt(folder).vocab_size
        except ValueError as error:
            raise ConfigError(str(error)) from None
        return shape.model_copy(update={"vocab_size": max(shape.vocab_size, tokens)})

    def origin(self, model: str) -> str:
        """The stage whose section has the shape of a model, or checkpoint."""
        seen = [model]
        while seen[-1] != CHECKPOINT and (start := self.starts_from(seen[-1])) and start not in seen:
            seen.append(start)
        needs = part_of(seen[-1], "needs") if seen[-1] != CHECKPOINT else None
        return needs.origin(self) if needs and hasattr(needs, "origin") else seen[-1]

    def key(self, model: str, name: str) -> str:
        """The parameter that decides this of a model's shape, such as pretrain.model.width."""
        origin = self.origin(model)
        return "checkpoint.folder" if origin == CHECKPOINT else f"{origin}.model.{name}"

    def corpus_vocabulary(self) -> int:
        """Tokens of the tokenizer that the corpus will be in. Raises ConfigError naming the file of one that is adopted."""
        method = self["tokenize"].method
        if method.name == "hugging_face":
            try:
                return Tokenizer.adopt(self.checkpoint_folder()).vocab_size
            except ValueError as error:
                raise ConfigError(str(error)) from None
        return method.vocab_size if method.name == "bpe" else 256 + len(SPECIALS)

    def plan_length(self) -> int:
        """Predictions in the longest sequence of the plan."""
        return getattr(self["curriculum"].method, self._plan_length)

    def plan_key(self) -> str:
        """The parameter that decides it."""
        return f"curriculum.method.{self._plan_length}"

    @property
    def _plan_length(self) -> str:
        return "sequence_length" if hasattr(self["curriculum"].method, "sequence_length") else "max_length"
