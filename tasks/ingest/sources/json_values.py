"""JSON that is not a line an object: an array of objects, or objects written over several lines, one after another.

Values are cut out by their brackets alone, so one that is no JSON inside says nothing of the next. At most one is held.
"""

import json
import re
from collections.abc import Iterator
from typing import BinaryIO

import orjson

from lm.inputs.encodings import BOM
from lm.inputs.text import without_mark
from tasks.ingest.sources.base import EXCERPT, Rejected, excerpt_of

PIECE = 1 << 18
BETWEEN = re.compile(rb"[}\]][ \t]*\r[ \t\r]*[{\[]")  # of lines that end in a carriage return alone
# A string as a whole where it ends in what is at hand; else its quote alone, and then its end.
OUTSIDE, INSIDE = re.compile(rb'(?s)"(?:[^"\\]++|\\.)*+"|["\[\]{},]'), re.compile(rb'["\\]')
SPACE = b" \t\r\n"
BEFORE = SPACE + BOM  # a value begins with none of these bytes
QUOTE, ESCAPE, COMMA, OPEN = ord('"'), ord("\\"), ord(","), (ord("["), ord("{"))


def is_in_lines(stream: BinaryIO, max_bytes: int) -> bool:
    """Whether a text is JSON lines, by its first two lines that are not blank. An array that is the only line is
    none; nor is what begins with a bracket and goes on in the next line, whose lines end in carriage returns alone, or whose
    first line has several objects."""
    first = _next_line(stream, max_bytes)
    if first[:1] not in (b"[", b"{"):
        return True
    try:
        orjson.loads(first)
    except orjson.JSONDecodeError:
        return first[:1] == b"{" and first != b"{" and not BETWEEN.search(first) and not is_several(first)
    return first[:1] == b"{" or bool(_next_line(stream, max_bytes))


def is_several(line: bytes) -> bool:
    """Whether an object is followed by another on its line."""
    text = line.decode("utf-8", "replace").strip()
    try:
        end = json.JSONDecoder().raw_decode(text)[1]
    except (ValueError, RecursionError):
        return False
    return text.startswith("{") and text[end:].lstrip().startswith("{")


def _next_line(stream: BinaryIO, max_bytes: int) -> bytes:
    """The next line that is not blank, without white space around it."""
    while line := stream.readline(max_bytes + 1):
        if found := without_mark(line).strip(SPACE):
            return found
    return b""


def read_values(stream: BinaryIO, max_bytes: int) -> Iterator[tuple[int, bytes] | Rejected]:
    """(number from 1, bytes) of each element of an array, or of each value of several; what is longer than max_bytes is
    rejected without being held, and so is one that ends with the file."""
    value, number, depth, inside = _Value(max_bytes), 0, 0, False
    data = b""
    while not data and (more := stream.read1(PIECE)):  # type: ignore[attr-defined] # read would lose what stands before a tear
        data = more.lstrip(BEFORE)
    is_array = data.startswith(b"[")
    begin = at = 0
    while data:
        mark = (INSIDE if inside else OUTSIDE).search(data, at)
        letter = data[mark.start()] if mark else 0
        at = mark.end() if mark else len(data)
        ends = is_outside = False  # whether a value ends here, and whether the letter is no part of it
        if letter == ESCAPE:
            if at == len(data):
                data += stream.read1(1)  # type: ignore[attr-defined]
            at += 1
        elif letter == QUOTE:
            inside = not inside and at == mark.start() + 1  # type: ignore[union-attr] # else a whole string
        elif letter in OPEN:
            depth += 1
            ends = is_outside = is_array and depth == 1
        elif letter == COMMA:
            ends = is_outside = depth == is_array
        elif letter:
            depth = max(depth - 1, 0)
            ends, is_outside = not depth, is_array
        if ends:
            value.add(data[begin : at - is_outside])
            begin = at
            if value.any:
                number += 1
                yield value.take(number)
        if at >= len(data):
            value.add(data[begin:])
            data = stream.read1(PIECE)  # type: ignore[attr-defined]
            begin = at = 0
    if value.any:
        yield Rejected(number + 1, "not_json", excerpt_of(bytes(value.held)))
    elif depth:
        yield Rejected(number + 1, "truncated", "the array does not end")


class _Value:
    """The bytes of one value, up to a limit."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.held, self.any, self._too_long = bytearray(), False, False

    def add(self, data: bytes) -> None:
        if not self.any:
            data = data.lstrip(BEFORE)
            self.any = bool(data)
        room = self._max_bytes - len(self.held)
        self._too_long |= len(data) > room
        self.held += data[: max(room, 0)]

    def take(self, number: int) -> tuple[int, bytes] | Rejected:
        """Take the value that is held, and make room for the next."""
        held, too_long = bytes(self.held), self._too_long
        self.held, self.any, self._too_long = bytearray(), False, False
        if too_long:
            return Rejected(number, "document_too_long", excerpt_of(held[: 4 * EXCERPT]))
        return number, held.rstrip(SPACE)
