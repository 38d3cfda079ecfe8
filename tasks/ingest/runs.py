"""Sorted runs on disk: rows in the order of their hash, so that any range of hashes is read without the rest.

A run is an Arrow IPC file of small record batches; the schema's metadata has the first hash of each.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa

from tasks.core.parts import workers
from tasks.core.process import memory_budget
from tasks.core.tables import row_bytes

RUN = pa.schema(
    [
        ("hash", pa.uint64()),
        ("number", pa.int64()),  # of the row among those of its piece
        ("file", pa.string()),
        ("row", pa.int64()),
        ("id", pa.string()),
        ("text", pa.large_string()),
        ("meta", pa.string()),
    ]
)
ROWS_A_BATCH, BYTES_A_BATCH = 4096, 1 << 20
MOST_A_RUN, SHARE_OF_BUDGET = 256 << 20, 16


def worker_memory() -> int:
    """Bytes of rows that one worker may hold at a time."""
    return max(1 << 20, min(MOST_A_RUN, memory_budget() // (SHARE_OF_BUDGET * workers())))


class RunWriter:
    """Takes rows in any order and writes them as runs of at most `size` bytes into a folder."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size = folder, size
        self._waiting: list[pa.RecordBatch] = []
        self._bytes = self._runs = 0

    def add(self, batch: pa.RecordBatch) -> None:
        self._waiting.append(batch)
        self._bytes += batch.nbytes
        if self._bytes >= self._size:
            self._flush()

    def _flush(self) -> None:
        rows, self._waiting, self._bytes = self._waiting, [], 0
        hashes = np.concatenate([batch.column("hash").to_numpy() for batch in rows])
        order = np.argsort(hashes, kind="stable")
        groups = in_groups(rows, order)
        firsts = hashes[[group[0] for group in groups]]
        schema = RUN.with_metadata({"firsts": firsts.astype("<u8").tobytes().hex()})
        options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
        path = self._folder / f"{self._runs:05}.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema, options=options) as writer:
            for group in groups:
                writer.write_batch(gather(rows, group).replace_schema_metadata(schema.metadata))
        self._runs += 1
        del rows
        pa.default_memory_pool().release_unused()

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None and self._waiting:
            self._flush()


def in_groups(batches: list[pa.RecordBatch], order: np.ndarray) -> list[np.ndarray]:
    """The numbers of rows of all batches, divided: each has at most ROWS_A_BATCH, and BYTES_A_BATCH but for its last row."""
    ends, edges = np.cumsum(np.concatenate([row_bytes(batch) for batch in batches])[order]), [0]
    while edges[-1] < len(order):
        before = ends[edges[-1] - 1] if edges[-1] else 0
        full = int(np.searchsorted(ends, before + BYTES_A_BATCH)) + 1
        edges.append(min(len(order), full, edges[-1] + ROWS_A_BATCH))
    return [order[first:end] for first, end in pairwise(edges)]


def gather(batches: list[pa.RecordBatch], rows: np.ndarray) -> pa.RecordBatch:
    """Rows of these numbers, counted over all batches, in this order. Nothing but they is copied, as Table.take would do with
    strings."""
    starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
    sources = np.searchsorted(starts, rows, side="right") - 1
    by_batch = np.argsort(sources, kind="stable")
    found, firsts = np.unique(sources[by_batch], return_index=True)
    pieces = [
        batches[number].take(pa.array(mine - starts[number]))
        for number, mine in zip(found, np.split(rows[by_batch], firsts[1:]), strict=True)
    ]
    back = np.empty(len(rows), dtype=np.int64)
    back[by_batch] = np.arange(len(rows))
    return pa.concat_batches(pieces).take(pa.array(back))


def read_runs(folder: Path, low: int = 0, high: int = 1 << 64) -> Iterator[pa.RecordBatch]:
    """The rows of a folder's runs with low <= hash < high, run by run."""
    for path in sorted(folder.glob("*.arrow")):
        with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
            firsts = np.frombuffer(bytes.fromhex(reader.schema.metadata[b"firsts"].decode()), dtype="<u8")
            start = max(0, int(np.searchsorted(firsts, np.uint64(low), side="left")) - 1)
            for number in range(start, len(firsts)):
                if int(firsts[number]) >= high:
                    break
                batch = reader.get_batch(number)
                begin, end = bounds(batch.column("hash").to_numpy(), low, high)
                if begin < end:
                    yield batch.slice(begin, end - begin).replace_schema_metadata(None)


def bounds(hashes: np.ndarray, low: int, high: int) -> tuple[int, int]:
    """The range of sorted hashes with low <= hash < high; high may be 2^64, which no hash reaches."""
    begin = int(np.searchsorted(hashes, np.uint64(low)))
    return begin, len(hashes) if high >= 1 << 64 else int(np.searchsorted(hashes, np.uint64(high)))
