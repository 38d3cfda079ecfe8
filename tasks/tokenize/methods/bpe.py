"""Byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909; bytes as in GPT-2), trained by the library `tokenizers`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import tokenizers
from pydantic import Field
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from lm.config import Config
from lm.tokenizer import SPECIALS, Tokenizer

# GPT-4's division into words, with digits one by one (so that numbers are written in place value) and without its
# English contractions.
WORDS = r"\p{N}|[^\r\n\p{L}\p{N}]?\p{L}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def train(texts: Iterator[str], vocab_size: int) -> tokenizers.Tokenizer:
    """A BPE tokenizer of at most vocab_size tokens: special tokens, 256 bytes, then merges; ties go to the lower id."""
    inner = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(WORDS), "isolated")
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(texts, trainer)
    return inner


class Bpe(Config):
    name: Literal["bpe"] = "bpe"
    vocab_size: int = Field(2048, ge=261, description="special tokens, 256 bytes and merges")

    def __call__(self, texts: Iterator[str], checkpoint: Path) -> Tokenizer:
        return Tokenizer(train(texts, self.vocab_size))
