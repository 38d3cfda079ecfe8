"""The weights and the shape of the Hugging Face model in checkpoint.folder: continued pretraining.

Use it with tokenize.method hugging_face, which takes that model's tokenizer; pretrain.model then says nothing.
"""

from pathlib import Path
from typing import Literal

from lm.config import Config
from lm.hugging_face.load import load_hf, resize_token_embeddings
from lm.model import Decoder, ModelConfig
from lm.tokenizer import Tokenizer


class HuggingFace(Config):
    name: Literal["hugging_face"] = "hugging_face"

    def __call__(self, shape: ModelConfig, tokenizer: Tokenizer, checkpoint: Path, seed: int) -> Decoder:
        """Raises ValueError naming the file that cannot be used, or when the corpus has another model's tokens."""
        if tokenizer != Tokenizer.adopt(checkpoint):
            raise ValueError(
                f"pretrain.start: the corpus is in other tokens than those of {checkpoint}; use tokenize.method hugging_face"
            )
        return resize_token_embeddings(load_hf(checkpoint), tokenizer.vocab_size)
