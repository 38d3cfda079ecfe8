"""Random weights of the shape that params.yaml gives."""

from pathlib import Path
from typing import Literal

from lm.config import Config
from lm.model import Decoder, ModelConfig
from lm.tokenizer import Tokenizer


class Random(Config):
    name: Literal["random"] = "random"

    def __call__(self, shape: ModelConfig, tokenizer: Tokenizer, checkpoint: Path, seed: int) -> Decoder:
        """Raises ValueError when the shape's vocabulary is given and is not the tokenizer's."""
        tokens = shape.rows(tokenizer.vocab_size)
        if shape.vocab_size not in (0, tokens):
            raise ValueError(f"pretrain.model.vocab_size: {shape.vocab_size}, but the tokenizer has {tokens}; use 0")
        return Decoder(shape.model_copy(update={"vocab_size": tokens}), seed)
