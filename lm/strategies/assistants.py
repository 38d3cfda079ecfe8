"""Models that a strategy reads beside the one whose answers are wanted: each in a folder of data/assistants."""

from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

from lm.config import ConfigError
from lm.inputs.hashed import check_is_hashed
from lm.model import Decoder
from lm.model_folder import read_model
from lm.tokenizer import Tokenizer

FOLDER = "data/assistants"
Assistant = Annotated[str, Field(pattern="^[A-Za-z0-9_-][A-Za-z0-9_.-]*$", description=f"name of a folder in {FOLDER}")]


@lru_cache(maxsize=2)  # who asks a server for answers asks again, and reading takes longer than an answer
def _read(folder: Path, _changed: int) -> tuple[Decoder, Tokenizer]:
    return read_model(folder)


def assistant(name: str, beside: Decoder, tokenizer: Tokenizer) -> Decoder:
    """The model of that name, where the other model is. Raises ConfigError where there is none, it cannot be read, or does not
    have the other's tokens and context."""
    folder = Path(FOLDER, name)
    check_is_hashed(folder, Path(FOLDER))
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder: copy a model there")
    try:
        model, own = _read(folder, max((path.stat().st_mtime_ns for path in folder.iterdir()), default=0))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if own.to_json() != tokenizer.to_json() or model.config.vocab_size != beside.config.vocab_size:
        raise ConfigError(f"{folder}: has other tokens than the model it assists: take one with its tokenizer")
    if model.config.context < beside.config.context:
        raise ConfigError(
            f"{folder}: reads {model.config.context} tokens, the model it assists {beside.config.context}: take one that "
            "reads as many"
        )
    return model.to(beside.embedding.weight.device).requires_grad_(False)
