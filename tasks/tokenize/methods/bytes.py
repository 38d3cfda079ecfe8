"""One token a byte: nothing to train, 261 tokens."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from lm.config import Config
from lm.tokenizer import SPECIALS, Tokenizer


def byte_tokenizer() -> tokenizers.Tokenizer:
    """The special tokens, then the 256 bytes in the alphabet that byte-level BPE writes them in."""
    vocabulary = {token: index for index, token in enumerate([*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    inner.add_special_tokens(SPECIALS)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return inner


class Bytes(Config):
    name: Literal["bytes"] = "bytes"

    def __call__(self, texts: Iterator[str], checkpoint: Path) -> Tokenizer:
        return Tokenizer(byte_tokenizer())
