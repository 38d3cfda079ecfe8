"""Byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909; bytes as in GPT-2), trained by the library rustbpe.

Pairs are counted in words, so neither the order nor the sharding of the texts decides anything; of pairs that are equally
frequent the one of lower ids is merged, first by its left token, then by its right.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import tokenizers
from pydantic import Field
from tokenizers import Regex, decoders, models, pre_tokenizers

from lm.config import Config
from lm.tokenizer import SPECIALS, WORDS, Tokenizer

# rustbpe's regular expressions give up on white space of a million characters, so a text comes in pieces; a word cut at a
# joint counts as two. It waits for as many pieces before it counts them on all threads.
PIECE_CHARACTERS, PIECES_AT_ONCE = 1 << 16, 1024

Pair = tuple[bytes, bytes]


def pieces(texts: Iterator[str], limit: int) -> Iterator[str]:
    """The texts in pieces, until the next one would make more than `limit` bytes."""
    size = 0
    for text in texts:
        for start in range(0, len(text), PIECE_CHARACTERS):
            piece = text[start : start + PIECE_CHARACTERS]
            size += len(piece.encode())
            if size > limit:
                return
            yield piece


def merged(token: bytes, rank: dict[Pair, int]) -> list[bytes]:
    """What is left of the bytes of a token after the merges, the lowest rank first and each from left to right."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while known := [pair for pair in zip(parts, parts[1:], strict=False) if pair in rank]:
        best, joined, place = min(known, key=rank.__getitem__), [], 0
        while place < len(parts):
            step = 2 if tuple(parts[place : place + 2]) == best else 1
            joined.append(b"".join(parts[place : place + step]))
            place += step
        parts = joined
    return parts


def merges_of(tokens: list[bytes]) -> list[Pair]:
    """The pair that each token was merged from. rustbpe tells the tokens alone, in the order they were made: each is
    what the merges before it leave as two parts. A token made before by another pair is left out."""
    rank: dict[Pair, int] = {}
    for token in tokens:
        parts = merged(token, rank)
        if len(parts) == 2:
            rank[parts[0], parts[1]] = len(rank)
    return list(rank)


def letters() -> list[str]:
    """The 256 characters that byte-level BPE writes bytes in: one that prints is itself, the others are those from 256 on."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    own, others = set(alphabet), (letter for letter in alphabet if ord(letter) > 255)
    return [chr(byte) if chr(byte) in own else next(others) for byte in range(256)]


def train(texts: Iterator[str], vocab_size: int, train_bytes: int) -> tokenizers.Tokenizer:
    """A BPE tokenizer of at most vocab_size tokens: the special tokens, the 256 bytes in order, the merges."""
    import rustbpe  # only where a tokenizer is trained

    trained = rustbpe.Tokenizer()
    trained.train_from_iterator(pieces(texts, train_bytes), vocab_size - len(SPECIALS), PIECES_AT_ONCE, WORDS)
    written = {bytes([byte]): character for byte, character in enumerate(letters())}
    pairs: list[tuple[str, str]] = []
    for left, right in merges_of([token for token, _ in trained.get_mergeable_ranks()][256:]):
        pairs.append((written[left], written[right]))
        written[left + right] = "".join(pairs[-1])
    vocabulary = {token: index for index, token in enumerate([*SPECIALS, *written.values()])}
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, pairs))
    inner.add_special_tokens(SPECIALS)
    split = pre_tokenizers.Split(Regex(WORDS), "isolated")
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    inner.decoder = decoders.ByteLevel()
    return inner


class Bpe(Config):
    name: Literal["bpe"] = "bpe"
    vocab_size: int = Field(2048, ge=261, description="special tokens, 256 bytes and merges")
    train_bytes: int = Field(
        1 << 30,
        ge=1 << 20,
        lt=1 << 31,
        description="of text to train on, from the front of the corpus; rustbpe counts in 32 bits",
    )

    def __call__(self, texts: Iterator[str], checkpoint: Path) -> Tokenizer:
        return Tokenizer(train(texts, self.vocab_size, self.train_bytes))
