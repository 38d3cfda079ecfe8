"""What a server answered, as a web archive keeps it: headers, and the body as it was meant, whatever was undone before.

Crawlers write bodies as they came, or decoded already with the headers left as they were, so the bytes say which it is: a
body that does not have the form its header names is taken as it stands.
"""

import io
import re
import zlib
from dataclasses import dataclass
from email.message import Message

from lm.inputs.compressed import Damaged, ExpandsTooFar, Plain, kind_of
from tasks.ingest.sources.warc_records import parse_headers

HEAD_END = re.compile(rb"\r?\n\r?\n")
STATUS = re.compile(rb"HTTP/\d(?:\.\d)?[ \t]+(\d{3})\b")
CHUNK = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")
LINE_END = re.compile(rb"\r?\n|\r?\Z")
FRAMED = {"gzip": "gzip", "x-gzip": "gzip", "zstd": "zstd"}
ANY_EXPANSION = 1 << 40  # what comes out is bounded by `most`
CONTROLS = bytes(code for code in range(32) if code not in b"\t\n\f\r\x1b")


class Undecodable(Exception):
    """A body that is cut off, or neither has the form its header names nor is text."""


@dataclass(frozen=True)
class Answer:
    """status: None where the first line does not say one; headers by lower-case name; body as it is stored."""

    status: int | None
    headers: dict[str, str]
    body: bytes


def parse(content: bytes) -> Answer | None:
    """The answer, None where the content does not begin as one does."""
    if not content.startswith(b"HTTP/"):
        return None
    first = content.partition(b"\n")[0]
    status = STATUS.match(first)
    end = HEAD_END.search(content, len(first) - 1)
    head, body = (content[: end.start()], content[end.end() :]) if end else (content, b"")
    # 100 Continue and its kin come before the answer
    if status and status[1].startswith(b"1") and (final := parse(body)):
        return final
    return Answer(int(status[1]) if status else None, parse_headers(head[len(first) + 1 :]), body)


def media_type(header: str) -> tuple[str, str | None]:
    """(type in lower case, charset or None) of a Content-Type."""
    message = Message()
    message["content-type"] = " ".join(header.split())
    charset = message.get_param("charset")
    kind = header.partition(";")[0].partition(",")[0].strip().lower()
    return kind, charset.strip(" \"'") if isinstance(charset, str) else None


def decoded(answer: Answer, most: int) -> bytes:
    """The body without its transfer and content codings; more than `most` bytes are not made of it. Raises Undecodable."""
    body = answer.body
    if "chunked" in answer.headers.get("transfer-encoding", "").lower():
        body = _joined(body)
    codings = answer.headers.get("content-encoding", "").lower().split(",")
    for coding in reversed([name.strip() for name in codings]):  # undone in the opposite order
        body = _undone(body, coding, most)
    return body


def _joined(body: bytes) -> bytes:
    """The chunks of a body put together; the body itself where it has none, which was put together before."""
    parts: list[bytes] = []
    at = 0
    while chunk := CHUNK.match(body, at):
        size = int(chunk[1], 16)
        begin, end = chunk.end(), chunk.end() + size
        if not size:
            return b"".join(parts)
        if end > len(body):
            if parts or body[begin : begin + 1] == b"<" or kind_of(body[begin : begin + 16]):
                raise Undecodable("ends within a chunk")
            return body
        after = LINE_END.match(body, end)
        if not after and not parts:
            return body  # a word such as "face" that looks like a size
        parts.append(body[begin:end])
        at = after.end() if after else end
    if parts:
        raise Undecodable("a chunk has no size" if at < len(body) else "ends before its last chunk")
    return body


def _undone(body: bytes, coding: str, most: int) -> bytes:
    """The body without one coding; as it is where it does not have it. A name that is no coding (UTF-8, none) says nothing."""
    if coding in FRAMED:
        if kind_of(body) != FRAMED[coding]:
            return _text(body, coding)
        return _plain(body, FRAMED[coding], most)
    if coding == "br":
        return _brotli(body, most)
    if coding == "deflate":
        for bits in (zlib.MAX_WBITS, -zlib.MAX_WBITS):  # as RFC 9110 says, and as some servers send it
            unpack = zlib.decompressobj(bits)
            try:
                data = unpack.decompress(body, most + 1)
            except zlib.error:
                continue
            if unpack.eof or len(data) > most:
                return data
            if data and bits > 0:
                raise Undecodable("deflate: ends before it is whole")
        return _text(body, coding)
    return body


def _plain(body: bytes, kind: str, most: int) -> bytes:
    data, stream = bytearray(), Plain(io.BytesIO(body), kind, ANY_EXPANSION, holds_anything=True)
    try:
        while len(data) <= most and (more := stream.read1()):
            data += more
    except (Damaged, ExpandsTooFar) as error:
        raise Undecodable(str(error)) from None
    return bytes(data)


def _brotli(body: bytes, most: int) -> bytes:
    from fastwarc.stream_io import BrotliReader

    try:
        return BrotliReader(io.BytesIO(body)).read(most + 1)
    except OSError:
        return _text(body, "br")


def _text(body: bytes, coding: str) -> bytes:
    """The body, if its beginning may be text. Raises Undecodable for any other."""
    start = body[:1024]
    if len(start.translate(None, CONTROLS)) < len(start) and not start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Undecodable(f"is not what its header says it is: {coding}")
    return body
