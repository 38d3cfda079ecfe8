"""A file of a user's as UTF-8: whatever it is compressed by, and in UTF-16 or UTF-32 too."""

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lm.config import ConfigError
from lm.inputs.compressed import HEAD, SUFFIXES, Damaged, ExpandsTooFar, Plain, foreign_kind, kind_of
from lm.inputs.encodings import BOM, Recoded, encoding_of

BUFFER = 1 << 18
SEEN = 8  # bytes of a text that tell its encoding
MAX_EXPANSION = 200  # bytes that a compressed one may become, where no parameter says how many
# What JSON lines are called, compressed or not.
LINES = (".jsonl", *(f".jsonl{suffix}" for suffix in SUFFIXES))
ERRORS = (Damaged, ExpandsTooFar, OSError)  # of a file that cannot be read to its end


@contextmanager
def plain_bytes(raw: BinaryIO, name: str, max_expansion: int) -> Iterator[BinaryIO]:
    """The bytes of a seekable stream, decompressed where its first bytes say that it is compressed, whatever its name.

    Raises Damaged where the name alone says so, and for what holds no text by itself.
    """
    head = raw.read(HEAD)
    raw.seek(0)
    stated = next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)
    if kind := kind_of(head):
        yield Plain(raw, kind, max_expansion)  # type: ignore[misc] # the part of it that is used here
    elif head and stated:
        raise Damaged(f"not {stated}, as its name says")
    elif foreign := foreign_kind(head):
        raise Damaged(f"is {foreign}")
    else:
        yield raw


@contextmanager
def as_utf8(opened: BinaryIO, encoding: str = "utf-8") -> Iterator[BinaryIO]:
    """The bytes of a text as UTF-8, from whatever encoding its mark says, else from the one that is stated."""
    buffered = opened if isinstance(opened, io.BufferedReader) else io.BufferedReader(opened, BUFFER)  # type: ignore[type-var]
    found = encoding_of(buffered.peek(SEEN)[:SEEN], encoding)
    if codecs.lookup(found).name == "utf-8":
        yield buffered
    else:
        yield io.BufferedReader(Recoded(buffered, found), BUFFER)  # type: ignore[arg-type]


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """(row, line) of every line of a file that is not blank, without byte order marks at its beginning, as a file has that was
    put together of others. Raises ConfigError naming the file, and the row behind which it cannot be read on."""
    row = 0
    try:
        with _opened(path) as opened:
            for row, line in enumerate(opened, 1):
                if (whole := without_mark(line)).strip():
                    yield row, whole
    except ERRORS as error:
        said = _words_of(error)
        raise ConfigError(f"{path}:{row + 1}: cannot be read on: {said}" if row else f"{path}: {said}") from None


def text_of(path: Path) -> str:
    """All of a file, without byte order marks at its beginning. Raises ConfigError naming the file where it cannot be read to
    its end, or is no text."""
    try:
        with _opened(path) as opened:
            whole = opened.read()
    except ERRORS as error:
        raise ConfigError(f"{path}: {_words_of(error)}") from None
    return decode_utf8(without_mark(whole), str(path))


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with path.open("rb") as raw, plain_bytes(raw, path.name, MAX_EXPANSION) as plain, as_utf8(plain) as opened:
        yield opened


def _words_of(error: Exception) -> str:
    if isinstance(error, ExpandsTooFar):
        return f"becomes more than {MAX_EXPANSION} times as large: unpack it"
    return str(error.strerror if isinstance(error, OSError) else error)


def without_mark(line: bytes) -> bytes:
    """The line without byte order marks at its beginning."""
    while line.startswith(BOM):
        line = line.removeprefix(BOM)
    return line


def decode_utf8(line: bytes, where: str) -> str:
    """The text of a line, or of a file. Raises ConfigError, which says `where`, for what is no UTF-8."""
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        found = f"its byte {error.start + 1} is {line[error.start]:#04x}"
        raise ConfigError(f"{where}: is no UTF-8: {found}: write the file as UTF-8") from None
