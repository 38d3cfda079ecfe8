"""Web archives: WARC with the main text of its HTML pages, and WET with text that was extracted already.

Parsing is fastwarc's and extraction resiliparse's (Bevendorff et al., ECIR 2018), whose main-content mode is a set of
rules on the page's tree.
"""

import io
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal

import pyarrow as pa

from tasks.ingest.sources.base import File, Record, Rejected, excerpt_of
from tasks.ingest.sources.file_source import FileSource
from tasks.ingest.sources.files import after, open_file, quarantined
from tasks.ingest.sources.rows import to_batches, to_json

SKIP = 1 << 20
HTML = ("text/html", "application/xhtml+xml")


def main_text(page: bytes, charset: str | None) -> str:
    """The main content of an HTML page; decoded as its headers say, else as its own meta tag or its bytes suggest."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    encoding = charset or detect_encoding(page, from_html_meta=True) or "utf-8"
    try:
        html = bytes_to_str(page, encoding)
    except LookupError:  # a charset that nobody knows
        html = bytes_to_str(page, "utf-8")
    return extract_plain_text(html, main_content=True, alt_texts=False)


class _Forward:
    """A stream that tells where it is and seeks forward by reading, as fastwarc asks of one that it did not open itself."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._place = stream, 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read1(size)  # type: ignore[attr-defined] # read would lose what stands before a tear
        self._place += len(data)
        return data

    def close(self) -> None:
        self._stream.close()

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        left = offset if whence == io.SEEK_CUR else offset - self._place
        if whence == io.SEEK_END or left < 0:
            raise io.UnsupportedOperation("seek: forward only")
        while left and (data := self.read(min(left, SKIP))):
            left -= len(data)
        return self._place


class Warc(FileSource):
    """`row` is the number of a record in its file, `id` its WARC-Record-ID; url, date and content type go into meta.

    Responses that are HTML or plain text are read, and conversion records (WET); every other record is passed over.
    """

    name: Literal["warc"] = "warc"

    def read(self, file: File, seed: int) -> Iterator[pa.RecordBatch | Rejected]:
        yield from to_batches(self._rows(file))

    def _rows(self, file: File) -> Iterator[Record | Rejected]:
        from fastwarc.warc import ArchiveIterator, WarcRecordType

        wrong: list[Rejected] = []
        row = 0
        with quarantined(file, wrong), open_file(file, self.max_expansion) as opened:
            records = ArchiveIterator(_Forward(opened), stream_detect=False, auto_decode="all")
            for record in records:
                if record.record_id is None:
                    wrong.append(Rejected(0, "unreadable", "no whole header of a record"))
                    break
                row += 1
                if record.record_type in (WarcRecordType.response, WarcRecordType.conversion):
                    yield from self._document(file, row, record)
        yield from after(wrong, row)
        if not row and not wrong:
            yield Rejected(0, "empty_file")

    def _document(self, file: File, row: int, record: Any) -> Iterator[Record | Rejected]:
        kind, charset, encoded = record.headers.get("Content-Type") or "", None, False
        if record.is_http_parsed:
            if record.http_headers.status_code not in (None, 200):
                return
            kind, charset = record.http_content_type or "", record.http_charset
            encoded = any(record.http_headers.get(name) for name in ("Content-Encoding", "Transfer-Encoding"))
        kind = kind.partition(";")[0].strip().lower()
        if kind not in (*HTML, "text/plain"):
            return
        wrong: list[Rejected] = []
        content = b""
        with quarantined(file, wrong, row):
            content = record.reader.read(self.max_document_bytes + 1)
        if wrong:
            yield from wrong
        elif len(content) > self.max_document_bytes:
            yield Rejected(row, "document_too_long", excerpt_of(content))
        elif len(content) < record.content_length and not encoded:
            yield Rejected(row, "truncated", excerpt_of(content))
        else:
            yield self._made(row, record, kind, charset, content)

    def _made(self, row: int, record: Any, kind: str, charset: str | None, content: bytes) -> Record | Rejected:
        try:
            text = main_text(content, charset) if kind in HTML else content.decode(charset or "utf-8")
        except (LookupError, UnicodeDecodeError):
            return Rejected(row, "invalid_utf8", excerpt_of(content))
        about = {
            "url": record.headers.get("WARC-Target-URI"),
            "date": record.headers.get("WARC-Date"),
            "content_type": kind,
        }
        return Record(row, text, record.record_id.strip("<>"), to_json(about))
