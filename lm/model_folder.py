"""A folder that holds a model: one of ours, as lm/checkpoint.py writes it, or one of Hugging Face's."""

import json
from pathlib import Path

from lm.checkpoint import load_model
from lm.hugging_face.load import files_of, load_hf, resize_token_embeddings
from lm.model import Decoder
from lm.tokenizer import Tokenizer


def is_hugging_face(folder: Path) -> bool:
    """True if config.json is there and in their format, which names a model_type."""
    try:
        return "model_type" in json.loads((folder / "config.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def read_model(folder: Path, masked: bool = False) -> tuple[Decoder, Tokenizer]:
    """The model, in float32 and evaluation mode, and its tokenizer. Theirs has rows for our special tokens. masked: whether it
    may be one that is not causal.

    Raises ValueError naming the file that is missing, torn or of what this decoder does not have.
    """
    if not is_hugging_face(folder):
        return load_model(folder, masked)
    tokenizer = Tokenizer.adopt(folder)
    return resize_token_embeddings(load_hf(folder), tokenizer.vocab_size), tokenizer


def read_bare(folder: Path) -> tuple[Decoder, Tokenizer]:
    """What `read_model` gives, for what changes the model's matrices and has no place for a prompt before its texts. Raises
    ValueError for a model that carries one, too."""
    model, tokenizer = read_model(folder)
    if model.prompt is not None:
        raise ValueError(
            f"{folder / 'config.json'}: the model carries a soft prompt, which would be lost: take one without, such as what "
            "distill makes of it"
        )
    return model, tokenizer


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of `read_model`, without its weights. Raises ValueError naming the file that cannot be used."""
    return Tokenizer.adopt(folder) if is_hugging_face(folder) else Tokenizer.load(folder)


def weights_bytes(folder: Path) -> int:
    """Bytes of the files of a model's weights."""
    return sum((folder / name).stat().st_size for name in files_of(folder))
