"""What a dedup method gets and gives: the documents that are left so far, and which of them go, or lose a part."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.log import Log
from tasks.core.tables import shard_paths

NO_CUTS = np.zeros((0, 3), dtype=np.int64)


@dataclass(frozen=True)
class Shard:
    """One file of the table: the number of its first row in the whole table, and which of its rows are left."""

    path: Path
    first: int
    alive: np.ndarray

    def batches(self, columns: list[str]) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """(n row numbers in the whole table, n rows): those that are left, a row group at a time."""
        with pq.ParquetFile(self.path) as file:
            for group in range(file.num_row_groups):
                yield from self.batches_of(file, group, columns)

    def batches_of(
        self, file: pq.ParquetFile, group: int, columns: list[str]
    ) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """Row numbers and rows of the documents left in one row group of the file, which is this shard's."""
        row = sum(file.metadata.row_group(before).num_rows for before in range(group))
        for batch in file.read_row_group(group, columns=columns).combine_chunks().to_batches():
            mine = np.flatnonzero(self.alive[row : row + batch.num_rows])
            row += batch.num_rows
            if len(mine):
                kept = batch if len(mine) == batch.num_rows else batch.take(pa.array(mine))
                yield self.first + row - batch.num_rows + mine, kept


@dataclass(frozen=True)
class Documents:
    """A table of shards, and N bools: which rows are left."""

    table: Path
    alive: np.ndarray

    @cached_property
    def shards(self) -> list[Shard]:
        files = shard_paths(self.table)
        ends = np.cumsum([pq.read_metadata(file).num_rows for file in files])
        return [
            Shard(file, int(end - size), self.alive[end - size : end])
            for file, end, size in zip(files, ends, np.diff(ends, prepend=0), strict=True)
        ]

    def batches(self, columns: list[str]) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """Row numbers and rows of the documents left in all shards, in order."""
        for shard in self.shards:
            yield from shard.batches(columns)


@dataclass(frozen=True)
class DedupResult:
    """first_N: the row of the first document of each one's cluster, its own where it is alone or was gone before.
    keep_N: which rows stay. cuts_K3: (row, begin, end), sorted, without overlaps: bytes to take out of rows that stay."""

    first_N: np.ndarray
    keep_N: np.ndarray
    cuts_K3: np.ndarray = field(default_factory=lambda: NO_CUTS)


class Method(Protocol):
    """`(documents, folder for what does not fit into memory, log) -> Found`; the same whatever the shards, workers, memory.

    The folder outlives a kill, as the parts of log.map do. What keep_N says of rows that were gone before counts for nothing.
    A row that goes has the reason `duplicate_of:<id of the first>`, or the method's `reason` where it is first itself.
    """

    reason: ClassVar[str]

    def __call__(self, documents: Documents, folder: Path, log: Log) -> DedupResult: ...
