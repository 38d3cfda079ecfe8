"""The tokenizer of the Hugging Face model in checkpoint.folder, with our special tokens after its own where it lacks them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from lm.config import Config
from lm.tokenizer import Tokenizer


class HuggingFace(Config):
    name: Literal["hugging_face"] = "hugging_face"

    def __call__(self, _texts: Iterator[str], checkpoint: Path) -> Tokenizer:
        return Tokenizer.adopt(checkpoint)
