"""The second pass: runs become shards, whose rows stand in canonical order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.parts import Facts
from tasks.core.tables import Writer, shard_path
from tasks.ingest.runs import RUN, RunWriter, bounds, gather, in_groups, read_runs, worker_memory

DOCUMENTS = pa.schema(
    [("id", pa.string()), ("source", pa.string()), ("text", pa.large_string()), ("meta", pa.string())]
)
ORIGINS = pa.schema([("id", pa.string()), ("file", pa.string()), ("row", pa.int64())])


@dataclass(frozen=True)
class Cut:
    """The first document in canonical order that its source may no longer take."""

    hash: int
    id: str


@dataclass(frozen=True)
class Runs:
    """The runs of one piece, its source, and where that one ends."""

    folder: Path
    label: str
    cut: Cut | None


@dataclass(frozen=True)
class Bucket:
    """Neighbouring shards that are made together: (low, high) hashes of each."""

    shards: tuple[tuple[int, int], ...]
    runs: tuple[Runs, ...]


def buckets(shards: Sequence[tuple[int, int, int]], runs: Sequence[Runs], most: int) -> Iterator[Bucket]:
    """All shards (low, high, bytes), in order: as many together as have `most` bytes, and at least one."""
    waiting: list[tuple[int, int]] = []
    held = 0
    for low, high, size in shards:
        if waiting and held + size > most:
            yield Bucket(tuple(waiting), tuple(runs))
            waiting, held = [], 0
        waiting.append((low, high))
        held += size
    yield Bucket(tuple(waiting), tuple(runs))


def make_shards(bucket: Bucket, folder: Path) -> Facts:
    """Write documents/ and origins/ of a bucket's shards, numbered from 0."""
    rows: list[list[tuple[str, pa.RecordBatch]]] = [[] for _ in bucket.shards]
    low, high = bucket.shards[0][0], bucket.shards[-1][1]
    for runs in bucket.runs:
        for batch in read_runs(runs.folder, low, high):
            taken = batch if runs.cut is None else rows_before(batch, runs.cut)
            hashes = taken.column("hash").to_numpy()
            for number, edges in enumerate(bucket.shards):
                begin, end = bounds(hashes, *edges)
                if begin < end:  # copied, so that a few rows do not hold a whole batch
                    rows[number].append((runs.label, taken.take(pa.array(np.arange(begin, end)))))
    for number in range(len(rows)):
        pieces, rows[number] = rows[number], []
        pa.default_memory_pool().release_unused()
        write_shard(folder, number, pieces)
    return {"shards": len(rows)}


def rows_before(batch: pa.RecordBatch, cut: Cut) -> pa.RecordBatch:
    """The rows that come before the cut in canonical order."""
    hashes, ids = batch.column("hash"), batch.column("id")
    edge = pa.scalar(cut.hash, pa.uint64())
    ties = pc.and_(pc.equal(hashes, edge), pc.less(ids, cut.id))
    return batch.filter(pc.or_(pc.less(hashes, edge), ties))


def write_shard(folder: Path, number: int, pieces: list[tuple[str, pa.RecordBatch]]) -> None:
    """Write rows in the order of hash and id."""
    rows = [batch.append_column("source", pa.repeat(label, batch.num_rows)) for label, batch in pieces]
    keys = pa.Table.from_batches([batch.select(["hash", "id"]) for batch in rows])
    order = pc.sort_indices(keys, [("hash", "ascending"), ("id", "ascending")]).to_numpy().astype(np.int64)
    with (
        Writer(shard_path(folder / "documents", number), DOCUMENTS) as documents,
        Writer(shard_path(folder / "origins", number), ORIGINS) as origins,
    ):
        for group in in_groups(rows, order):
            found = gather(rows, group)
            documents.write(found.select(DOCUMENTS.names))
            origins.write(found.select(ORIGINS.names))


def renumber(item: tuple[Path, Path], folder: Path) -> Facts:
    """The runs of a piece with the new ids of some rows: item has its folder of runs, and a file of index.RENAMED."""
    runs, renamed = item
    names = pq.read_table(renamed).combine_chunks()
    numbers = names.column("number").to_numpy()
    (folder / "runs").mkdir()
    with RunWriter(folder / "runs", worker_memory()) as writer:
        for batch in read_runs(runs):
            writer.add(with_names(batch, names, numbers))
    return {"renamed": len(numbers)}


def with_names(batch: pa.RecordBatch, names: pa.Table, numbers: np.ndarray) -> pa.RecordBatch:
    """The batch with id and hash of the rows that `names` has; numbers: its sorted column of row numbers."""
    mine = batch.column("number").to_numpy()
    places = np.searchsorted(numbers, mine)
    known = np.flatnonzero(places < len(numbers))
    known = known[numbers[places[known]] == mine[known]]
    if not len(known):
        return batch
    mask = np.zeros(len(mine), dtype=bool)
    mask[known] = True
    chosen = names.take(pa.array(places[known])).combine_chunks()
    columns = dict(zip(RUN.names, batch.columns, strict=True))
    for name in ("hash", "id"):
        columns[name] = pc.replace_with_mask(columns[name], pa.array(mask), chosen.column(name).combine_chunks())
    return pa.record_batch(list(columns.values()), schema=RUN)
