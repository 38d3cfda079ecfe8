"""What every objective of pretraining is beside its loss."""

from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from lm.config import Config
from lm.model import Decoder, ModelConfig
from lm.tokenizer import Tokenizer


class LossPosition(NamedTuple):
    """Place of a loss in a run: the rows of a step that it is of. What an objective draws follows from it alone, so that a run
    that was stopped, its parts and its ranks draw the same.

    seed: of the run. step: of `steps` in all. first: the number of the first row, in a step that has `rows`; 0: as many as are
    given.
    """

    seed: int = 0
    step: int = 0
    steps: int = 1
    first: int = 0
    rows: int = 0

    @property
    def progress(self) -> float:
        """0 at the first step, 1 at the last."""
        return self.step / max(self.steps - 1, 1)


# Of a run of one step, whose rows are all that are given
FIRST = LossPosition()


class Objective(Config):
    """A method of the room. What it trains beside the model goes with the model, so that optimizer, ranks and checkpoints have
    it as they have all weights, and is dropped when training has ended.

    causal: whether the model that it trains is; by_run: whether a step depends on how long the run will be.
    """

    causal: ClassVar[bool] = True

    @property
    def by_run(self) -> bool:
        return False

    def with_checkpoint(self, folder: Path, tokenizer: Tokenizer, model: Decoder, length: int) -> Any:
        """What computes the loss of a run whose sequences have so many predictions at most: itself, or with what it reads of
        the model in the folder, which is checkpoint.folder. Raises ValueError where that cannot be used."""
        return self

    def add_modules(self, model: Decoder, seed: int) -> None:
        """Put onto the model what is trained with it; nothing, by default."""

    def drop(self, model: Decoder) -> None:
        """Take it off again."""

    def added_parameters(self, shape: ModelConfig) -> int:
        """Numbers of what it puts onto a model of this shape."""
        return 0
