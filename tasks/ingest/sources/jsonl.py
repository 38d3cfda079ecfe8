"""JSON lines, one object a line; or an array of objects, or objects over several lines."""

import json
from collections.abc import Iterator
from typing import Literal

import orjson
import pyarrow as pa

from tasks.ingest.sources.base import Columns, File, Record, Rejected, excerpt_of
from tasks.ingest.sources.file_source import TextSource
from tasks.ingest.sources.files import after, open_text, quarantined, read_lines
from tasks.ingest.sources.json_values import is_in_lines, is_several, read_values
from tasks.ingest.sources.rows import record_of, to_batches


def parse_line(row: int, line: bytes, columns: Columns) -> Record | Rejected | None:
    """The record of one line, or why there is none; None of a blank line."""
    if b"\0" in line:
        return Rejected(row, "nul_bytes", excerpt_of(line))
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        try:  # slower, and takes what orjson refuses: NaN, lone surrogates in fields that nobody reads
            value = json.loads(line.decode())
        except UnicodeDecodeError:
            return Rejected(row, "invalid_utf8", excerpt_of(line))
        except (ValueError, RecursionError):
            said = b"several objects on one line: put each on its own: " if is_several(line) else b""
            return Rejected(row, "not_json", excerpt_of(said + line)) if line.strip() else None
    return (
        record_of(row, value, columns) if isinstance(value, dict) else Rejected(row, "not_an_object", excerpt_of(line))
    )


class Jsonl(TextSource, Columns):
    """Integers beyond 64 bits become floating-point numbers: an id of that kind is to be a string."""

    name: Literal["jsonl"] = "jsonl"

    def read(self, file: File, seed: int) -> Iterator[pa.RecordBatch | Rejected]:
        yield from to_batches(self._rows(file))

    def _rows(self, file: File) -> Iterator[Record | Rejected]:
        for line in self._lines(file):
            found = line if isinstance(line, Rejected) else parse_line(*line, self)
            if found:
                yield found

    def _lines(self, file: File) -> Iterator[tuple[int, bytes] | Rejected]:
        """(row, bytes of its JSON), and what could not be read."""
        settings = (self.max_expansion, self.encoding)
        wrong: list[Rejected] = []
        in_lines = True
        with quarantined(file, wrong), open_text(file, *settings) as opened:
            in_lines = is_in_lines(opened, self.max_document_bytes)
        if in_lines:
            yield from read_lines(file, self.max_document_bytes, *settings)
            return
        wrong, row = [], 0
        with quarantined(file, wrong), open_text(file, *settings) as opened:
            for found in read_values(opened, self.max_document_bytes):
                row = found.row if isinstance(found, Rejected) else found[0]
                yield found
        yield from after(wrong, row)
