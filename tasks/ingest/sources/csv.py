"""CSV and TSV: a first line of names, fields quoted by double quotes where they hold the delimiter or a line's end."""

import csv
import json
from collections.abc import Iterator
from typing import Literal

import pyarrow as pa
from pydantic import Field

from lm.inputs.columns import own_names
from lm.inputs.compressed import SUFFIXES
from tasks.ingest.sources.base import Columns, File, Record, Rejected, excerpt_of, which_field
from tasks.ingest.sources.file_source import TextSource
from tasks.ingest.sources.files import read_lines
from tasks.ingest.sources.rows import record_of, to_batches


def other_delimiter(names: list[str]) -> str:
    """A word about the delimiter, where the only name has another one in it."""
    found = [mark for mark in (",;\t|") if len(names) == 1 and mark in names[0]]
    return f"; did you mean delimiter: {json.dumps(max(found, key=names[0].count))}?" if found else ""


class _Unusable(Exception):
    """A line that no row can be made of."""

    def __init__(self, rejected: Rejected) -> None:
        self.rejected = rejected


class Csv(TextSource, Columns):
    """`row` is the line on which a row begins. A row of too few or too many fields is quarantined; of columns of one name the
    first has it, the second is `name#2`."""

    name: Literal["csv"] = "csv"
    delimiter: str | None = Field(
        None, min_length=1, max_length=1, description="null: a tab in .tsv files, else a comma"
    )

    def read(self, file: File, seed: int) -> Iterator[pa.RecordBatch | Rejected]:
        yield from to_batches(self._rows(file))

    def _rows(self, file: File) -> Iterator[Record | Rejected]:
        name = file.plain_path
        tabs = any(name.endswith(f".tsv{suffix}") for suffix in ("", *SUFFIXES))
        # characters, and never more than the bytes of the document
        csv.field_size_limit(self.max_document_bytes)
        lines = _Texts(read_lines(file, self.max_document_bytes, self.max_expansion, self.encoding, old_ends=True))
        reader = csv.reader(lines, delimiter=self.delimiter or ("\t" if tabs else ","))
        header: list[str] | None = None
        names: list[str] = []
        while True:
            row = lines.row + 1
            try:
                values = next(reader)
            except StopIteration:
                break
            except _Unusable as error:
                yield error.rejected
                continue
            except csv.Error as error:
                yield Rejected(row, "field_too_long" if "limit" in str(error) else "not_csv", excerpt_of(error))
                continue
            if not values:
                continue
            if lines.over:  # a whole row never makes the reader ask for more: the file ends within a quoted field
                said = f"a quote that opens here is open {lines.row - row} lines later, where the file ends"
                yield Rejected(row, "truncated", excerpt_of(f"{said}: {values}"))
                break
            if header is None:
                header, names = values, own_names(values)
                if self.text_field not in names:
                    hint = other_delimiter(names)
                    said = which_field(self.text_field, names, [] if hint else names)
                    yield Rejected(0, "missing_text", said + hint)
                    return
            elif values == header:
                yield Rejected(row, "repeated_header", excerpt_of(values))
            elif len(values) != len(names):
                yield Rejected(row, "ragged_row", excerpt_of(f"{len(values)} fields, not {len(names)}: {values}"))
            else:
                yield record_of(row, dict(zip(names, values, strict=True)), self)


class _Texts:
    """Lines as text for csv.reader, which goes on with the next line after an error; a generator would have ended."""

    def __init__(self, lines: Iterator[tuple[int, bytes] | Rejected]) -> None:
        self._lines = lines
        self.row = 0
        self.over = False

    def __iter__(self) -> "_Texts":
        return self

    def __next__(self) -> str:
        try:
            line = next(self._lines)
        except StopIteration:
            self.over = True
            raise
        self.row = line.row if isinstance(line, Rejected) else line[0]
        if isinstance(line, Rejected):
            raise _Unusable(line)
        try:
            return line[1].decode()
        except UnicodeDecodeError:
            raise _Unusable(Rejected(line[0], "invalid_utf8", excerpt_of(line[1]))) from None
