"""Parquet files with a column of texts."""

from collections.abc import Iterator
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.ingest.sources.base import ROWS, Columns, File, Rejected, excerpt_of
from tasks.ingest.sources.file_source import FileSource
from tasks.ingest.sources.files import after, open_raw, quarantined
from tasks.ingest.sources.rows import to_json

# Read of a column chunk at a time, and aimed at for a batch: a row group may be larger than memory.
BUFFER, BATCH_BYTES, MAX_ROWS = 1 << 20, 4 << 20, 4096


def rows_a_batch(metadata: pq.FileMetaData) -> int:
    """As many as make about BATCH_BYTES where rows are alike."""
    sizes = (metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    return max(1, min(MAX_ROWS, BATCH_BYTES * max(1, metadata.num_rows) // max(1, sum(sizes))))


def is_text(kind: pa.DataType) -> bool:
    """Strings of any width, plain or by a dictionary; binary is taken for text too, and its UTF-8 is checked."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(
        test(kind)
        for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    )


def as_text(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """The column as strings of this type, its UTF-8 not looked at."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    large = pa.types.is_large_string(kind)
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return column.cast(pa.large_binary() if large else pa.binary()).view(kind)
    return column.cast(kind)


class Parquet(FileSource, Columns):
    """A batch of rows is held at a time, so one long document in it is held too before it is quarantined."""

    name: Literal["parquet"] = "parquet"

    def read(self, file: File, seed: int) -> Iterator[pa.RecordBatch | Rejected]:
        row, wrong = 0, list[Rejected]()
        try:
            with quarantined(file, wrong):
                for found in self._batches(file):
                    row += found.num_rows if isinstance(found, pa.RecordBatch) else 0
                    yield found
        except (pa.ArrowException, ValueError) as error:
            wrong.append(Rejected(0, "unreadable", excerpt_of(f"{type(error).__name__}: {error}")))
        yield from after(wrong, row)

    def _batches(self, file: File) -> Iterator[pa.RecordBatch | Rejected]:
        with open_raw(file) as raw, pq.ParquetFile(raw, buffer_size=BUFFER, pre_buffer=False) as opened:
            schema = opened.schema_arrow
            if self.text_field not in schema.names:
                yield Rejected(0, "missing_text", excerpt_of(f"columns: {', '.join(schema.names)}"))
                return
            if not is_text(schema.field(self.text_field).type):
                kind = schema.field(self.text_field).type
                yield Rejected(0, "text_is_not_a_string", excerpt_of(f"{self.text_field}: {kind}"))
                return
            meta = self.meta_names(schema.names)
            wanted = [name for name in schema.names if name in (self.text_field, self.id_field, *meta)]
            row = 0
            size = rows_a_batch(opened.metadata)
            for group in range(opened.num_row_groups):  # one by one: what is whole before a damaged one is kept
                for batch in opened.iter_batches(size, row_groups=[group], columns=wanted, use_threads=False):
                    yield self._rows(batch, row, meta)
                    row += batch.num_rows

    def _rows(self, batch: pa.RecordBatch, before: int, meta: list[str]) -> pa.RecordBatch:
        count = batch.num_rows
        ids = batch.column(self.id_field) if self.id_field in batch.schema.names else pa.nulls(count, pa.string())
        if not is_text(ids.type):
            ids = ids.cast(pa.string())
        about = [to_json(values) for values in batch.select(meta).to_pylist()] if meta else ["{}"] * count
        columns = [
            pa.array(range(before + 1, before + count + 1), pa.int64()),
            as_text(ids, pa.string()),
            as_text(batch.column(self.text_field), pa.large_string()),
            pa.array(about, pa.string()),
        ]
        return pa.record_batch(columns, schema=ROWS)
