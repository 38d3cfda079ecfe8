"""Parquet in and out: the same rows give the same bytes.

A table is a file, or a folder of files 00000.parquet, 00001.parquet, ... (shards) which hold its rows in that order.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lm.config import ConfigError

T = TypeVar("T")
# A row group ends where either is reached, so that a reader holds little, whatever the rows.
ROWS_A_GROUP, BYTES_A_GROUP = 4096, 8 << 20


def row_bytes(batch: pa.RecordBatch) -> np.ndarray:
    """N sizes of the rows: bytes of their strings, and 8 for every other value."""
    sizes = np.zeros(batch.num_rows, dtype=np.int64)
    for column in batch.columns:
        kind = column.type
        width = 64 if pa.types.is_large_string(kind) or pa.types.is_large_binary(kind) else 32
        if not (width == 64 or pa.types.is_string(kind) or pa.types.is_binary(kind)):
            sizes += 8
            continue
        offsets = np.frombuffer(column.buffers()[1], dtype=f"int{width}")
        sizes += np.diff(offsets[column.offset : column.offset + len(column) + 1])
    return sizes


class Writer:
    """Writes batches to one Parquet file; rows are regrouped, so that how they were batched leaves no trace. A thread packs one
    row group while its user makes the next.

    encodings: Parquet's encoding of each column, by name; without them columns have dictionaries where these are smaller.
    """

    def __init__(self, path: Path, schema: pa.Schema, encodings: dict[str, str] | None = None) -> None:
        self.schema = schema
        self.rows = 0
        chosen = {"use_dictionary": False, "column_encoding": encodings} if encodings else {}
        self._file = pq.ParquetWriter(path, schema, compression="zstd", version="2.6", write_statistics=False, **chosen)
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = self._waiting_bytes = 0

    def write(self, batch: pa.RecordBatch | pa.Table) -> None:
        """Add rows; their columns must be the schema's."""
        for piece in batch.cast(self.schema).to_batches() if isinstance(batch, pa.Table) else [batch.cast(self.schema)]:
            self.rows += piece.num_rows
            self._add(piece)

    def _add(self, batch: pa.RecordBatch) -> None:
        ends = np.cumsum(row_bytes(batch))
        first = 0
        while first < batch.num_rows:
            before = ends[first - 1] if first else 0
            full = int(np.searchsorted(ends, before + BYTES_A_GROUP - self._waiting_bytes)) + 1
            end = min(batch.num_rows, full, first + ROWS_A_GROUP - self._waiting_rows)
            self._waiting.append(batch.slice(first, end - first))
            self._waiting_rows += end - first
            self._waiting_bytes += int(ends[end - 1] - before)
            if self._waiting_rows == ROWS_A_GROUP or self._waiting_bytes >= BYTES_A_GROUP:
                self._flush()
            first = end

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._waiting, self.schema)
        self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0
        self._wait()
        self._writing = self._thread.submit(self._write, table)

    def _write(self, table: pa.Table) -> None:
        self._file.write_table(table.combine_chunks(), row_group_size=ROWS_A_GROUP)

    def _wait(self) -> None:
        """Wait until the last row group is written. Raises its error."""
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                if self._waiting:
                    self._flush()
                self._wait()
        finally:
            self._thread.shutdown()
            self._file.close()


def write_table(path: Path, table: pa.Table, encodings: dict[str, str] | None = None) -> None:
    """Write a whole table to one file; encodings as of Writer."""
    with Writer(path, table.schema, encodings) as writer:
        writer.write(table)


def shard_path(table: Path, number: int) -> Path:
    """The file of a shard; the folder is made where it is missing."""
    table.mkdir(parents=True, exist_ok=True)
    return table / f"{number:05}.parquet"


def shard_paths(path: Path) -> list[Path]:
    """The files of a table, in order. Raises ConfigError when there is none, or one is missing."""
    files = [path] if path.is_file() else sorted(path.glob("*.parquet"))
    if not files or (path.is_dir() and files[-1].stem != f"{len(files) - 1:05}"):
        raise ConfigError(f"{path}: has {len(files)} shards, and not all of them; make it anew")
    return files


def count_rows(path: Path) -> int:
    """Rows of a table, read from the ends of its files."""
    return sum(pq.read_metadata(file).num_rows for file in shard_paths(path))


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """The whole table, or some of its columns in this order."""
    return pa.concat_tables([pq.read_table(file, columns=columns, partitioning=None) for file in shard_paths(path)])


def read_batches(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows in order, a row group at a time."""
    for each in shard_paths(path):
        with pq.ParquetFile(each) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group, columns=columns).combine_chunks().to_batches()


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """The items, in order; a thread makes the next one while its user works on the one before."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield cast(T, item)
