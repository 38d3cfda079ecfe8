"""Parquet files with a column of texts."""

from collections.abc import Iterator
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from lm.inputs.columns import own_names
from lm.inputs.compressed import HEAD, Damaged, foreign_kind, kind_of
from tasks.ingest.sources.arrow_rows import refusal, rows_of
from tasks.ingest.sources.base import Columns, File, Rejected, excerpt_of
from tasks.ingest.sources.file_source import FileSource
from tasks.ingest.sources.files import after, open_raw, quarantined

MAGIC = b"PAR1"
# Read of a column chunk at a time, and aimed at for a batch: a row group may be larger than memory.
BUFFER, BATCH_BYTES, MAX_ROWS = 1 << 20, 4 << 20, 4096


def rows_a_batch(metadata: pq.FileMetaData) -> int:
    """Number of rows that make about BATCH_BYTES where rows are alike; at most MAX_ROWS."""
    sizes = (metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    return max(1, min(MAX_ROWS, BATCH_BYTES * max(1, metadata.num_rows) // max(1, sum(sizes))))


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
        with open_raw(file) as raw:
            head = raw.read(HEAD)
            raw.seek(0)
            if kind := kind_of(head):
                raise Damaged(f"is {kind}: unpack it")
            if not head.startswith(MAGIC) and (foreign := foreign_kind(head)):
                raise Damaged(f"is {foreign}")
            with pq.ParquetFile(raw, buffer_size=BUFFER, pre_buffer=False) as opened:
                yield from self._rows(opened)

    def _rows(self, opened: pq.ParquetFile) -> Iterator[pa.RecordBatch | Rejected]:
        schema = opened.schema_arrow
        if refused := refusal(schema, self):
            yield refused
            return
        names = own_names(schema.names)
        meta = self.meta_names(names)
        wanted = [
            name
            for name, own in zip(schema.names, names, strict=True)
            if own in (self.text_field, self.id_field, *meta)
        ]
        row, size = 0, rows_a_batch(opened.metadata)
        for group in range(opened.num_row_groups):  # one by one: what is whole before a damaged one is kept
            for batch in opened.iter_batches(size, row_groups=[group], columns=wanted, use_threads=False):
                yield rows_of(batch, row, self)
                row += batch.num_rows
