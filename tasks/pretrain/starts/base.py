"""What pretraining that begins as a smaller model has in common: the model in checkpoint.folder, and its tokens."""

from abc import abstractmethod
from pathlib import Path

import torch

from lm.config import Config
from lm.model import Decoder, ModelConfig
from lm.model_folder import read_bare
from lm.tokenizer import Tokenizer

SLOT = "pretrain.model"


class Grown(Config):
    """A start that takes its shape from pretrain.model, and its weights from the smaller model in checkpoint.folder, of our
    format or Hugging Face's."""

    def __call__(self, shape: ModelConfig, tokenizer: Tokenizer, checkpoint: Path, seed: int) -> Decoder:
        """The larger model, in training mode. Raises ValueError naming the file that cannot be used, the corpus being in other
        tokens than the smaller model's, the parameter that does not fit it, or a soft prompt, which would be lost."""
        small, theirs = read_bare(checkpoint)
        if tokenizer != theirs:
            raise ValueError(
                f"pretrain.start: the corpus is in other tokens than those of the model in {checkpoint}: train that on this "
                "corpus, or use tokenize.method hugging_face, which takes the tokens from there"
            )
        tokens = tokenizer.vocab_size
        if shape.vocab_size not in (0, tokens):
            raise ValueError(f"pretrain.model.vocab_size: {shape.vocab_size}, but the tokenizer has {tokens}; use 0")
        return self.grow(without_padding(small, tokens), shape.model_copy(update={"vocab_size": tokens}), seed).train()

    @abstractmethod
    def check(self, small: ModelConfig, shape: ModelConfig) -> None:
        """Raises ConfigError where a model of this shape cannot begin as one of the smaller, of as many tokens."""

    @abstractmethod
    def grow(self, small: Decoder, shape: ModelConfig, seed: int) -> Decoder:
        """The model of this shape that begins as the smaller one, of as many tokens. Raises ConfigError as `check` does."""


@torch.no_grad()
def without_padding(model: Decoder, tokens: int) -> Decoder:
    """The model without rows beyond those of its tokens; itself where it has none."""
    if model.config.vocab_size == tokens:
        return model
    made = Decoder(model.config.model_copy(update={"vocab_size": tokens}))
    rows = ("embedding.weight", "head.weight")
    made.load_state_dict({name: w[:tokens] if name in rows else w for name, w in model.state_dict().items()})
    return made
