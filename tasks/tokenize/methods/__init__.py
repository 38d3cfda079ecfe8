"""Tokenizers: `(texts, checkpoint folder) -> Tokenizer`. Those of ours round-trip every text."""

from tasks.tokenize.methods.bpe import Bpe
from tasks.tokenize.methods.bytes import Bytes
from tasks.tokenize.methods.hugging_face import HuggingFace
