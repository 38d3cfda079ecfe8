"""What is decided over all documents at once, from their keys alone and out of core: names, budgets, and the shards' edges."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from tasks.core.process import memory_budget, threads
from tasks.core.tables import Writer
from tasks.ingest.reading import QUARANTINE, id_hash
from tasks.ingest.shards import Cut

# Shards end at multiples of 2^64 / CELLS; a power of two.
CELL_BITS = 20
CELLS = 1 << CELL_BITS
# What DuckDB gets at least, and what each of its threads wants before it gets another one: its sorts and groups fail with less.
LEAST_MEMORY, MEMORY_A_THREAD = 64 << 20, 64 << 20
ROWS_A_BATCH = 4096
RENAMED = pa.schema([("piece", pa.int64()), ("number", pa.int64()), ("id", pa.string()), ("hash", pa.uint64())])

# The first of an id, by the digest of its text, keeps it. The k-th of the others gets the k-th number from 2 on that no
# row bears by itself: with the taken numbers t_1 < t_2 < ..., there are t_j - 1 - j free ones below t_j.
NUMBERED = r"""
WITH repeated AS (
    SELECT * FROM keys WHERE hash IN (SELECT hash FROM keys GROUP BY hash HAVING count(*) > 1)
), placed AS (
    SELECT piece, number, id,
        row_number() OVER (PARTITION BY id ORDER BY digest, source, meta_digest, piece, number) AS place
    FROM repeated
), named AS (
    SELECT DISTINCT regexp_extract(id, '(?s)^(.*)#([0-9]+)$', 1) AS base,
        regexp_extract(id, '(?s)^(.*)#([0-9]+)$', 2)::BIGINT AS taken
    FROM keys WHERE regexp_matches(id, '#([2-9]|[1-9][0-9]{1,17})$')
), counted AS (
    SELECT base, taken, row_number() OVER (PARTITION BY base ORDER BY taken) AS nth FROM named
), gaps AS (
    SELECT base, taken - nth AS gap, max(nth) AS below FROM counted GROUP BY ALL
)
SELECT piece, number, id || '#' || (place + coalesce(below, 0)) AS id
FROM (SELECT * FROM placed WHERE place > 1) ASOF LEFT JOIN gaps ON base = id AND gap <= place - 1
ORDER BY piece, number
"""

# Of a source, within one cell: the first in canonical order with which it has more than so many bytes.
FIRST_TOO_MANY = f"""
SELECT hash, id FROM (
    SELECT hash, id, sum(bytes) OVER (ORDER BY hash, id ROWS UNBOUNDED PRECEDING) AS used
    FROM documents WHERE source = ? AND hash >> {64 - CELL_BITS} = ?
) WHERE used > ? ORDER BY hash, id LIMIT 1
"""  # noqa: S608 - a constant


@dataclass(frozen=True)
class Total:
    """What a source gives: documents, bytes of text, and how many of the documents got another id."""

    documents: int
    bytes: int
    renamed: int


class Index:
    """The keys of all pieces, in DuckDB: what does not fit into its memory is on disk."""

    def __init__(self, folder: Path, pieces: Sequence[tuple[Path, str]]) -> None:
        """pieces: (folder of the part, label of the source) of each."""
        pa.default_memory_pool().release_unused()  # what reading has left behind is DuckDB's to use
        self._folder, self._cuts = folder, dict[str, Cut]()
        self._renamed = folder / "renamed"
        self._db = connect(folder)
        names = [str(part / "keys.parquet") for part, _ in pieces]
        table = {"filename": names, "piece": list(range(len(pieces))), "source": [label for _, label in pieces]}
        self._db.register("pieces", pa.table(table))
        self._db.execute(
            "CREATE VIEW keys AS SELECT * EXCLUDE (filename) FROM "
            f"read_parquet({names!r}, filename = true) JOIN pieces USING (filename)"
        )

    def rename(self) -> dict[int, Path]:
        """Give all documents but the first of an id another, and the pieces that hold such: piece -> a file of RENAMED."""
        self._renamed.mkdir(exist_ok=True)
        found: dict[int, Path] = {}
        for piece, group in groupby(self._new_names(), key=itemgetter(0)):
            found[piece] = self._renamed / f"{piece:05}.parquet"
            with Writer(found[piece], RENAMED) as writer:
                for _, rows in group:
                    writer.write(rows)
        files = [str(path) for path in found.values()]
        final = "keys.hash AS hash, keys.id AS id, false AS renamed"
        joined = ""
        if files:
            final = "coalesce(r.hash, keys.hash) AS hash, coalesce(r.id, keys.id) AS id, r.id IS NOT NULL AS renamed"
            joined = f"LEFT JOIN read_parquet({files!r}) r USING (piece, number)"
        self._db.execute(f"CREATE VIEW documents AS SELECT {final}, source, bytes, size FROM keys {joined}")  # noqa: S608
        return found

    def budget(self, shares: dict[str, int]) -> dict[str, Cut]:
        """The cut of each source that has more bytes of text than its share; the rest of its documents is not taken."""
        for label, share in shares.items():
            sums = self._cells("bytes", "documents", label)
            ends = np.cumsum(sums)
            if ends[-1] <= share:
                continue
            crossing = int(np.searchsorted(ends, share, side="right"))
            used = int(ends[crossing] - sums[crossing])
            first = self._db.execute(FIRST_TOO_MANY, [label, crossing, share - used]).fetchall()
            self._cuts[label] = Cut(*first[0])
        columns = {"source": list(self._cuts), "cut_hash": pa.array([c.hash for c in self._cuts.values()], pa.uint64())}
        self._db.register(
            "cuts", pa.table({**columns, "cut_id": pa.array([c.id for c in self._cuts.values()], pa.string())})
        )
        self._db.execute(
            "CREATE VIEW taken AS SELECT * FROM documents LEFT JOIN cuts USING (source) "
            "WHERE cut_hash IS NULL OR hash < cut_hash OR (hash = cut_hash AND id < cut_id)"
        )
        return self._cuts

    def totals(self) -> dict[str, Total]:
        """Totals of each source that gives anything, by its label."""
        found = self._db.execute(
            "SELECT source, count(*), sum(bytes)::BIGINT, count(*) FILTER (renamed) FROM taken GROUP BY source"
        )
        return {label: Total(*numbers) for label, *numbers in found.fetchall()}

    def shards(self, most: int) -> list[tuple[int, int, int]]:
        """(low, high, bytes of rows) of each: hashes from low up to high, halved until none has more than `most`."""
        width = 64 - CELL_BITS
        return [(low << width, high << width, size) for low, high, size in halve(self._cells("size", "taken"), most)]

    def _cells(self, what: str, table: str, label: str | None = None) -> np.ndarray:
        """CELLS sums of a column, of all documents or of one source, in the order of hashes."""
        sums = np.zeros(CELLS, dtype=np.int64)
        where, values = ("", []) if label is None else ("WHERE source = ?", [label])
        query = f"SELECT hash >> {64 - CELL_BITS} AS cell, {what} AS value FROM {table} {where}"  # noqa: S608
        for batch in self._db.sql(query, params=values).to_arrow_reader(ROWS_A_BATCH):
            np.add.at(sums, batch.column("cell").to_numpy(), batch.column("value").to_numpy())
        return sums

    def _new_names(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """(piece, rows of RENAMED), in the order of pieces and of the rows in them."""
        for batch in self._db.sql(NUMBERED).to_arrow_reader(ROWS_A_BATCH):
            hashes = pa.array(map(id_hash, batch.column("id").to_pylist()), pa.uint64())
            rows = pa.record_batch([*batch.columns, hashes], schema=RENAMED)
            pieces = rows.column("piece").to_numpy()
            edges = [0, *(np.flatnonzero(np.diff(pieces)) + 1).tolist(), len(pieces)]
            for first, end in pairwise(edges):
                yield int(pieces[first]), rows.slice(first, end - first)

    def close(self) -> None:
        self._db.close()


def halve(sizes: np.ndarray, most: int) -> list[tuple[int, int, int]]:
    """(begin, end, sum) of ranges of a power of two of cells, halved while they have more than `most` and more than one
    cell; those that hold nothing are left out."""
    ends = np.concatenate([[0], np.cumsum(sizes)])
    found, waiting = [], [(0, len(sizes))]
    while waiting:
        begin, end = waiting.pop()
        size = int(ends[end] - ends[begin])
        if size > most and end - begin > 1:
            middle = (begin + end) // 2
            waiting += [(middle, end), (begin, middle)]
        elif size:
            found.append((begin, end, size))
    return found


def connect(folder: Path) -> duckdb.DuckDBPyConnection:
    """A database in memory that spills into the folder: half of the budget, as nothing else is held meanwhile."""
    memory = max(LEAST_MEMORY, memory_budget() // 2)
    return duckdb.connect(
        config={
            "memory_limit": f"{memory >> 20}MiB",
            "temp_directory": str(folder / "spilled"),
            "threads": max(1, min(threads(), memory // MEMORY_A_THREAD)),
            "preserve_insertion_order": False,
        }
    )


@contextmanager
def disk_errors() -> Iterator[None]:
    """A full disk is an OSError of that number, whoever met it."""
    try:
        yield
    except duckdb.Error as error:
        if "No space left" in str(error) or "Disk quota" in str(error):
            raise OSError(errno.ENOSPC, str(error)) from error
        raise


def write_quarantine(path: Path, parts: Sequence[Path], folder: Path) -> None:
    """The rejected rows of all pieces, by source, file, row, reason."""
    names = [str(part / "rejected.parquet") for part in parts]
    with connect(folder) as db, Writer(path, QUARANTINE) as writer:
        query = f"SELECT source, file, row, reason, excerpt FROM read_parquet({names!r}) ORDER BY ALL"
        for batch in db.sql(query).to_arrow_reader(ROWS_A_BATCH):
            writer.write(batch)
