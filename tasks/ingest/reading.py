"""The first pass: a piece of the input (one file, or small ones together) becomes sorted runs, keys and rejected rows."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from tasks.core.tables import Writer, row_bytes
from tasks.core.texts import text_buffers
from tasks.ingest.checks import check
from tasks.ingest.runs import RUN, RunWriter, worker_memory
from tasks.ingest.sources.base import File, Rejected, Source
from tasks.ingest.sources.rows import to_json

# What is known of a document without its text. digest decides between two of one id, then source and meta_digest.
KEYS = pa.schema(
    [
        ("hash", pa.uint64()),
        ("id", pa.string()),
        ("digest", pa.binary()),
        ("meta_digest", pa.uint64()),
        ("bytes", pa.int64()),  # of text
        ("size", pa.int64()),  # of the row
        ("number", pa.int64()),
    ]
)
QUARANTINE = pa.schema(
    [
        ("source", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("reason", pa.string()),
        ("excerpt", pa.string()),
    ]
)
# Small files are read together, so that a million of them are not a million parts.
FILES_A_PIECE, BYTES_A_PIECE, REJECTED_A_BATCH = 1000, 16 << 20, 1024


@dataclass(frozen=True)
class Piece:
    """What one call of `read_piece` reads. share: bytes of text at which an endless source stops."""

    source: Source
    files: tuple[File, ...]
    share: int
    seed: int


def pieces(source: Source, files: Sequence[File], share: int, seed: int) -> Iterator[Piece]:
    """All files, in order: neighbours stay together up to BYTES_A_PIECE."""
    waiting: list[File] = []
    size = 0
    for file in files:
        if waiting and (size + file.bytes > BYTES_A_PIECE or len(waiting) == FILES_A_PIECE):
            yield Piece(source, tuple(waiting), share, seed)
            waiting, size = [], 0
        waiting.append(file)
        size += file.bytes
    yield Piece(source, tuple(waiting), share, seed)


def id_hash(name: str) -> int:
    """The 64 bits that place a document: XXH3 of its id, as specified since xxHash 0.8."""
    return xxhash.xxh3_64_intdigest(name.encode())


def read_piece(item: Piece, folder: Path) -> dict[str, Any]:
    """Read a piece into folder/runs, folder/keys.parquet and folder/rejected.parquet."""
    (folder / "runs").mkdir()
    source, facts = item.source, Counter[str]()
    with (
        RunWriter(folder / "runs", worker_memory()) as runs,
        Writer(folder / "keys.parquet", KEYS) as keys,
        Writer(folder / "rejected.parquet", QUARANTINE) as writer,
    ):
        quarantine = Quarantine(writer, source.called)
        for file in item.files:
            for found in source.read(file, item.seed):
                if isinstance(found, Rejected):
                    quarantine.add(file, found)
                    continue
                checked = check(found, getattr(source, "max_document_bytes", None))
                for rejected in checked.rejected:
                    quarantine.add(file, rejected)
                rows = with_file(checked.good, file.name) if getattr(source, "file_in_meta", False) else checked.good
                sizes = np.diff(text_buffers(rows.column("text"))[1])
                full = source.endless and facts["bytes"] + int(sizes.sum()) > item.share
                if full:
                    count = int(np.searchsorted(facts["bytes"] + np.cumsum(sizes), item.share, side="right"))
                    rows, sizes = rows.slice(0, count), sizes[:count]
                if rows.num_rows:
                    made = with_keys(rows, source.called, file.name, facts["documents"])
                    runs.add(made.rows)
                    keys.write(made.keys)
                    facts.update(documents=rows.num_rows, bytes=int(sizes.sum()))
                if full:
                    break
        quarantine.flush()
    return {"documents": 0, "bytes": 0, **facts, "reasons": dict(quarantine.reasons), "examples": quarantine.examples}


def with_file(rows: pa.RecordBatch, name: str) -> pa.RecordBatch:
    """The rows with the file's name in their meta, in the place of a field `file` that they have."""
    metas = [to_json({**json.loads(meta), "file": name}) for meta in rows.column("meta").to_pylist()]
    return rows.set_column(rows.schema.get_field_index("meta"), "meta", pa.array(metas, pa.string()))


@dataclass(frozen=True)
class KeyedBatch:
    """A batch as it goes into a run, and its keys."""

    rows: pa.RecordBatch
    keys: pa.RecordBatch


def with_keys(batch: pa.RecordBatch, label: str, file: str, before: int) -> KeyedBatch:
    """Give every row an id, where it has none one made of its text, and the hash of it. before: rows of the piece so far."""
    count, texts = batch.num_rows, batch.column("text")
    data, starts = text_buffers(texts)
    content = data.data
    digests = [xxhash.xxh3_128_digest(content[a:b]) for a, b in pairwise(starts.tolist())]
    ids = [
        own or f"{label}:{digest.hex()}" for own, digest in zip(batch.column("id").to_pylist(), digests, strict=True)
    ]
    hashes = pa.array([id_hash(name) for name in ids], pa.uint64())
    metas = [xxhash.xxh3_64_intdigest(meta.encode()) for meta in batch.column("meta").to_pylist()]
    numbers = pa.array(np.arange(before, before + count))
    named = pa.array(ids, pa.string())
    rows = pa.record_batch(
        [
            hashes,
            numbers,
            pa.repeat(pa.scalar(file), count),
            batch.column("row"),
            named,
            texts,
            batch.column("meta"),
        ],
        schema=RUN,
    )
    sizes = [pa.array(np.diff(starts), pa.int64()), pa.array(row_bytes(rows))]
    keys = [hashes, named, pa.array(digests, pa.binary()), pa.array(metas, pa.uint64()), *sizes, numbers]
    return KeyedBatch(rows, pa.record_batch(keys, schema=KEYS))


@dataclass
class Quarantine:
    """Writes rejected rows, and counts their reasons."""

    writer: Writer
    label: str
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)  # the first row of each reason, as a message names it
    _waiting: list[tuple[str, str, int, str, str]] = field(default_factory=list)

    def add(self, file: File, rejected: Rejected) -> None:
        self.reasons[rejected.reason] += 1
        place = f"{file.name}, row {rejected.row}" if rejected.row else file.name
        self.examples.setdefault(rejected.reason, f"{place}: {rejected.excerpt}")
        self._waiting.append((self.label, file.name, rejected.row, rejected.reason, rejected.excerpt))
        if len(self._waiting) == REJECTED_A_BATCH:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            columns = zip(zip(*self._waiting, strict=True), QUARANTINE.types, strict=True)
            self.writer.write(pa.record_batch([pa.array(c, kind) for c, kind in columns], schema=QUARANTINE))
            self._waiting.clear()
