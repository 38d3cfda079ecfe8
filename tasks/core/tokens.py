"""Whether a model that came from elsewhere reads the corpus."""

from pathlib import Path

from lm.config import ConfigError
from lm.tokenizer import Tokenizer


def check_tokens(where: str, tokenizer: Tokenizer, corpus: Path) -> None:
    """Raise ConfigError, which begins with `where`, unless the corpus in this folder is in the model's tokens."""
    if tokenizer != Tokenizer.load(corpus):
        raise ConfigError(
            f"{where}: has other tokens than the corpus; tokenize.method hugging_face gives it those of checkpoint.folder"
        )
