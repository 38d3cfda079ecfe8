"""Tokenizers: `(texts) -> Tokenizer`. Every one of them round-trips every text."""

from tasks.tokenize.methods.bpe import Bpe
from tasks.tokenize.methods.bytes import Bytes
