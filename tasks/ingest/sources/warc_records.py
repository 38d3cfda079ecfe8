"""The records of a web archive, one by one: what is wrong with one of them says nothing of the next.

A record ends where its Content-Length says and an empty line follows. Where none does, or the archive is damaged, reading goes
on at the next line that begins a record.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from lm.inputs.compressed import Damaged
from lm.inputs.encodings import BOM
from lm.inputs.text import without_mark
from tasks.ingest.sources.base import Rejected, excerpt_of

# A record's first line, and what a header begins with.
START = re.compile(rb"WARC/\d\.\d{1,2}\r?\n(?=[A-Za-z][\w-]*[ \t]*:)")
LONGEST_HEAD, PIECE = 1 << 20, 1 << 18
# A start that is cut in two by the edge of a piece is found with this much of the piece before.
OVERLAP = 128
LINE_END = 10
ARC = b"filedesc://"


@dataclass(frozen=True)
class Block:
    """A record: its number in the file from 1, its headers by lower-case name, and its content as it is stored, which is its
    beginning alone where it is longer than was asked for (`whole` says so)."""

    number: int
    headers: dict[str, str]
    content: bytes
    whole: bool


def parse_headers(head: bytes) -> dict[str, str]:
    """Headers by lower-case name, of several of a name the first; lines without a colon are passed over, folded ones joined."""
    found: dict[str, str] = {}
    last = ""
    for line in head.splitlines():
        text = _text(line)
        if text[:1] in (" ", "\t") and last:
            found[last] = f"{found[last]} {text.strip()}"
            continue
        name, colon, value = text.partition(":")
        last = name.strip().lower() if colon else ""
        if last in found:
            last = ""
        elif last:
            found[last] = value.strip()
    return found


def _text(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")


def start_in(data: bytes, begin: int = 0) -> int:
    """Where the first line stands, from a place on, that begins a record; -1 where none does. A byte order mark before it, as
    an archive has that was put together of others, is passed over."""
    at = data.find(b"WARC/", begin)
    while at >= 0 and not (_begins_a_line(data, at) and START.match(data, at)):
        at = data.find(b"WARC/", at + 1)
    return at


def _begins_a_line(data: bytes, at: int) -> bool:
    before = data[max(0, at - len(BOM) - 1) : at].removesuffix(BOM)
    return not before or before[-1] == LINE_END


class _Stream:
    """Bytes that can be given back, and read again from an earlier place by opening the file anew."""

    def __init__(self, again: Callable[[], BinaryIO]) -> None:
        self._again = again
        self._opened, self._data, self._at = again(), b"", 0
        self.place = 0

    def _fill(self) -> bool:
        if self._at == len(self._data):
            self._data, self._at = self._opened.read1(PIECE), 0  # type: ignore[attr-defined] # read would lose what stands before a tear
        return self._at < len(self._data)

    def more(self, most: int = PIECE) -> bytes:
        """Next bytes, at most `most`; none at the end alone."""
        if not self._fill():
            return b""
        data = self._data[self._at : self._at + most]
        self._at += len(data)
        self.place += len(data)
        return data

    def back(self, data: bytes) -> None:
        """Give back the bytes that were read last."""
        if len(data) <= self._at:
            self._at -= len(data)
        else:
            self._data, self._at = data + self._data[self._at :], 0
        self.place -= len(data)

    def line(self) -> bytes:
        """A line with its end, cut at LONGEST_HEAD; none at the end of the file alone."""
        found = b""
        while len(found) < LONGEST_HEAD and self._fill():
            end = self._data.find(b"\n", self._at) + 1
            found += self.more((end or len(self._data)) - self._at)
            if end:
                break
        return found

    def go_to(self, place: int) -> None:
        """Go back to an earlier place."""
        self._opened.close()
        self._opened, self._data, self._at, self.place = self._again(), b"", 0, 0
        while self.place < place:
            try:
                if not self.more(place - self.place):
                    return
            except Damaged:
                continue

    def to_next_start(self) -> None:
        """Go to the next line that begins a record, or to the end."""
        data = b""
        while more := self.more():
            data += more
            if (found := start_in(data)) >= 0:
                return self.back(data[found:])
            data = data[-OVERLAP:]


class Records:
    """Iterates over the records of a file. opened: opens it from its start. most: bytes of a record that are kept of it."""

    def __init__(self, opened: Callable[[], BinaryIO], most: int) -> None:
        self._stream, self._most = _Stream(opened), most
        self.number = 0

    def __iter__(self) -> Iterator[Block | Rejected]:
        ended = False
        while not ended:
            before = self.number
            try:
                found = self._next()
                ended = found is None
            except Damaged as error:
                self.number = before + 1
                found = Rejected(self.number, "unreadable", excerpt_of(error))
                self._recover()
            if found is not None:
                yield found

    def _recover(self) -> None:
        """Past damage, to the next beginning of a record; a stream that has no more finds its end."""
        while True:
            try:
                return self._stream.to_next_start()
            except Damaged:
                continue

    def _next(self) -> Block | Rejected | None:
        """The next record, or what is wrong with it; None at the end."""
        line = without_mark(self._stream.line())
        while line and not line.strip():
            line = without_mark(self._stream.line())
        if not line:
            return None
        self.number += 1
        if not line.startswith(b"WARC/"):
            self._stream.to_next_start()
            is_arc = self.number == 1 and line.startswith(ARC)
            what = "an ARC file: write it as WARC, as warcio recompress does" if is_arc else excerpt_of(line)
            return Rejected(self.number, "not_a_record", what)
        head = b""
        while (line := self._stream.line()).strip():
            if line.startswith(b"WARC/"):  # the next record: this one ended in its head
                self._stream.back(line)
                return Rejected(self.number, "truncated", excerpt_of(head))
            head += line
            if len(head) > LONGEST_HEAD:
                self._stream.to_next_start()
                return Rejected(self.number, "header_too_long", excerpt_of(head))
        if not line:
            return Rejected(self.number, "truncated", excerpt_of(head))
        headers = parse_headers(head)
        length = headers.get("content-length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 19):
            self._stream.to_next_start()
            return Rejected(self.number, "wrong_length", f"Content-Length: {excerpt_of(length) or 'none'}")
        return self._content(headers, int(length))

    def _content(self, headers: dict[str, str], length: int) -> Block | Rejected:
        begin, content, left = self._stream.place, bytearray(), length
        next_start, tail = -1, b""
        while left and (data := self._stream.more(min(left, PIECE))):
            left -= len(data)
            kept = data[: max(0, self._most - len(content))]
            content += kept
            if len(kept) < len(data) and next_start < 0:
                seen = tail + data
                found = start_in(seen)
                next_start = self._stream.place - len(seen) + found if found >= 0 else -1
                tail = seen[-OVERLAP:]
        if not left and self._ends_here():
            return Block(self.number, headers, bytes(content), length <= self._most)
        found = start_in(bytes(content), 1)
        if found >= 0:
            next_start = begin + found
        wrong = f"Content-Length: {length}: {excerpt_of(bytes(content))}"
        if next_start >= 0:
            self._stream.go_to(next_start)
        elif left:
            return Rejected(self.number, "truncated", excerpt_of(wrong))
        else:
            self._stream.to_next_start()
        return Rejected(self.number, "wrong_length", excerpt_of(wrong))

    def _ends_here(self) -> bool:
        """Whether a record may end here: at the end, before an empty line, or before the next record."""
        line = self._stream.line()
        if line and not line.strip():
            return True
        if line:
            self._stream.back(line)
        return not line or line.startswith(b"WARC/")
