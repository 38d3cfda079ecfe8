"""Web archives: WARC with the main text of its HTML pages, and WET with text that was extracted already.

Extraction is resiliparse's (Bevendorff et al., ECIR 2018), whose main-content mode is a set of rules on the page's tree.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Literal

import pyarrow as pa

from lm.inputs.encodings import known_encoding
from tasks.ingest.sources.base import File, Record, Rejected, excerpt_of
from tasks.ingest.sources.file_source import FileSource
from tasks.ingest.sources.files import after, open_file, quarantined
from tasks.ingest.sources.http_message import Undecodable, decoded, media_type, parse
from tasks.ingest.sources.rows import to_batches, to_json
from tasks.ingest.sources.warc_records import LONGEST_HEAD, Block, Records

READ = ("response", "conversion")
# Headers of a record that is one of several parts of a long one (WARC 1.1, 5.19 and 7).
PARTS = ("warc-segment-number", "warc-segment-origin-id")
HTML = ("text/html", "application/xhtml+xml")
PAGE = re.compile(rb"\s*<(?:!doctype\s+html|html)\b", re.I)  # how a page begins whose type nothing says


def plain_text(content: bytes, charset: str | None) -> str:
    """The text, as UTF-8 where its charset is not stated or unknown. Raises UnicodeDecodeError."""
    try:
        return content.decode(known_encoding(charset or "utf-8")).removeprefix("\ufeff")
    except ValueError as error:
        if isinstance(error, UnicodeDecodeError):
            raise
        return content.decode("utf-8-sig")


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


class Warc(FileSource):
    """`row` is the number of a record in its file, `id` its WARC-Record-ID; url, date and content type go into meta.

    Responses that are HTML or plain text are read, and conversion records (WET); every other record is passed over. A record
    that cannot be read is quarantined, and the next one is read; so is each part of one that was written in parts.
    """

    name: Literal["warc"] = "warc"

    def read(self, file: File, seed: int) -> Iterator[pa.RecordBatch | Rejected]:
        yield from to_batches(self._rows(file))

    def _rows(self, file: File) -> Iterator[Record | Rejected]:
        wrong: list[Rejected] = []
        found = 0
        with quarantined(file, wrong), ExitStack() as opened:
            records = Records(
                lambda: opened.enter_context(open_file(file, self.max_expansion)),
                self.max_document_bytes + LONGEST_HEAD,
            )
            for record in records:
                found = record.row if isinstance(record, Rejected) else record.number
                if isinstance(record, Rejected):
                    yield record
                elif any(part in record.headers for part in PARTS):
                    yield Rejected(found, "part_of_a_record", excerpt_of(record.content))
                elif record.headers.get("warc-type", "").lower() in READ:
                    yield from self._document(record)
                elif "warc-type" not in record.headers:
                    yield Rejected(found, "no_record_type", excerpt_of(record.content))
        yield from after(wrong, found)
        if not found and not wrong:
            yield Rejected(0, "empty_file")

    def _document(self, record: Block) -> Iterator[Record | Rejected]:
        """The record's text, why it has none, or nothing where it is of another kind."""
        answer = parse(record.content)
        if answer and answer.status not in (None, 200):
            return
        stated = answer.headers.get("content-type") if answer else record.headers.get("content-type")
        kind, charset = media_type(stated or record.headers.get("warc-identified-payload-type", ""))
        body = answer.body if answer else record.content
        without_head = not answer and record.headers.get("warc-type", "").lower() == "response"
        if (without_head or not kind) and PAGE.match(body):
            kind = HTML[0]
        elif without_head and kind == "application/http":
            yield Rejected(record.number, "no_http_head", excerpt_of(body))
            return
        if kind not in (*HTML, "text/plain"):
            return
        try:
            content = decoded(answer, self.max_document_bytes) if answer and record.whole else body
        except Undecodable as error:
            yield Rejected(record.number, "unreadable", excerpt_of(error))
            return
        if not record.whole or len(content) > self.max_document_bytes:
            yield Rejected(record.number, "document_too_long", excerpt_of(content))
        else:
            yield self._made(record, kind, charset, content)

    def _made(self, record: Block, kind: str, charset: str | None, content: bytes) -> Record | Rejected:
        try:
            text = main_text(content, charset) if kind in HTML else plain_text(content, charset)
        except UnicodeDecodeError:
            return Rejected(record.number, "invalid_utf8", excerpt_of(content))
        except Exception as error:  # whatever an extractor may meet in a page speaks against that page alone
            return Rejected(record.number, "unreadable", excerpt_of(f"{type(error).__name__}: {error}"))
        url = record.headers.get("warc-target-uri")
        about = {
            "url": url.strip("<>") if url else None,  # wget puts it between brackets
            "date": record.headers.get("warc-date"),
            "content_type": kind,
        }
        return Record(
            record.number, text, record.headers.get("warc-record-id", "").strip("<> ") or None, to_json(about)
        )
