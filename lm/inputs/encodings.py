"""Texts of other encodings as UTF-8: UTF-16 and UTF-32 by their marks or their zeros, any other that params name."""

import codecs
import io
from typing import BinaryIO

BOM = codecs.BOM_UTF8
# UTF-32's little-endian mark begins with UTF-16's.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
PIECE = 1 << 18


def known_encoding(name: str) -> str:
    """The name, if Python knows an encoding of text by it. Raises ValueError for any other."""
    try:
        if codecs.lookup(name)._is_text_encoding:  # rot13 and base64 are codecs too
            return name
    except (LookupError, ValueError):
        pass
    raise ValueError("no encoding of text that Python knows; utf-8, latin-1, cp1252 and utf-16 are some")


def encoding_of(head: bytes, stated: str) -> str:
    """The encoding of a text by its first bytes; the stated one where they do not tell.

    A mark tells; so do zeros in every other byte, which ASCII in UTF-16 has and no text in UTF-8. Eight bytes are enough.
    """
    for mark, name in MARKS:
        if head.startswith(mark):
            return name
    pairs = len(head) // 2
    even, odd = head[: 2 * pairs : 2], head[1 : 2 * pairs : 2]
    if pairs > 1 and not any(odd) and all(even):
        return "utf-16-le"
    return "utf-16-be" if pairs > 1 and not any(even) and all(odd) else stated


class Recoded(io.RawIOBase):
    """A stream of some encoding as UTF-8, a piece at a time. What is no text of that encoding becomes bytes that are no UTF-8,
    so that it speaks against the row that it stands in, and no other. one_end: lines of every kind of end get that of Unix."""

    def __init__(self, stream: BinaryIO, encoding: str, one_end: bool = False) -> None:
        self._stream, self._waiting, self._over = stream, b"", False
        decoder = codecs.getincrementaldecoder(encoding)(errors=ERRORS)
        self._decoder = io.IncrementalNewlineDecoder(decoder, translate=True) if one_end else decoder

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        while not self._waiting and not self._over:
            data = self._stream.read1(PIECE)  # type: ignore[attr-defined]
            self._over = not data
            self._waiting = self._decoder.decode(data, final=self._over).encode("utf-8", "surrogatepass")
        data, self._waiting = self._waiting[: len(view)], self._waiting[len(view) :]
        view[: len(data)] = data
        return len(data)


def _as_lone_surrogate(error: UnicodeError) -> tuple[str, int]:
    """What cannot be decoded, as half a pair of surrogates: no UTF-8 has that."""
    assert isinstance(error, UnicodeDecodeError)
    return "\ud800", error.end


ERRORS = "tokenmill_lone_surrogate"
codecs.register_error(ERRORS, _as_lone_surrogate)
