"""Parquet in and out: the same rows give the same bytes."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

# Long texts: small groups keep a reader's memory bounded.
ROWS_A_GROUP = 4096


class Writer:
    """Writes batches to one Parquet file; rows are regrouped, so that how they were batched leaves no trace."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.schema = schema
        self._file = pq.ParquetWriter(path, schema, compression="zstd", version="2.6", write_statistics=False)
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0

    def write(self, batch: pa.RecordBatch | pa.Table) -> None:
        """Add rows; their columns must be the schema's."""
        for piece in batch.cast(self.schema).to_batches() if isinstance(batch, pa.Table) else [batch.cast(self.schema)]:
            self._waiting.append(piece)
            self._rows += piece.num_rows
        if self._rows >= ROWS_A_GROUP:
            self._flush(whole_groups_only=True)

    def _flush(self, whole_groups_only: bool) -> None:
        table = pa.Table.from_batches(self._waiting, self.schema)
        end = table.num_rows - table.num_rows % ROWS_A_GROUP if whole_groups_only else table.num_rows
        if end:
            self._file.write_table(table.slice(0, end).combine_chunks(), row_group_size=ROWS_A_GROUP)
        rest = table.slice(end).combine_chunks()
        self._waiting, self._rows = rest.to_batches(), rest.num_rows

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._flush(whole_groups_only=False)
        self._file.close()


def write_table(path: Path, table: pa.Table) -> None:
    """Write a whole table."""
    with Writer(path, table.schema) as writer:
        writer.write(table)


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """The whole table, or some of its columns in this order."""
    return pq.read_table(path, columns=columns)


def read_batches(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows in order, in batches of at most one row group."""
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=ROWS_A_GROUP, columns=columns)
