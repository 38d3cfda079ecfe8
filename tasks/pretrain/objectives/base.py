"""What every objective of pretraining is beside its loss."""

from lm.config import Config
from lm.model import Decoder, ModelConfig


class Objective(Config):
    """A method of the room. What it trains beside the model goes with the model, so that optimizer, ranks and checkpoints have
    it as they have all weights, and is dropped when training has ended."""

    def bring(self, model: Decoder, seed: int) -> None:
        """Put onto the model what is trained with it; nothing, by default."""

    def drop(self, model: Decoder) -> None:
        """Take it off again."""

    def brought(self, shape: ModelConfig) -> int:
        """Numbers of what it puts onto a model of this shape."""
        return 0
