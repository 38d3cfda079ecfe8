"""Documents for the tests of dedup: the same rows in any cut of shards and row groups."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.tables import shard_path
from tasks.dedup.documents import DedupResult, Documents


def documents_of(folder: Path, texts: list[str], cuts: tuple[int, ...] = (), group: int = 4096) -> Documents:
    """A table of these texts with shards that begin at `cuts`, and all its rows."""
    edges = [0, *sorted(min(cut, len(texts)) for cut in cuts), len(texts)]
    for number, (begin, end) in enumerate(zip(edges, edges[1:], strict=False)):
        rows = {
            "id": pa.array([f"{row:04}" for row in range(begin, end)], pa.string()),
            "source": pa.array(["s"] * (end - begin), pa.string()),
            "text": pa.array(texts[begin:end], pa.large_string()),
            "meta": pa.array(["{}"] * (end - begin), pa.string()),
        }
        pq.write_table(pa.table(rows), shard_path(folder, number), row_group_size=group)
    return Documents(folder, np.ones(len(texts), dtype=bool))


def left_of(texts: list[str], found: DedupResult) -> list[str | None]:
    """What becomes of each text, None where it goes. Every cut falls on characters."""
    left: list[str | None] = []
    for row, text in enumerate(texts):
        data = text.encode()
        for _, begin, end in found.cuts_K3[found.cuts_K3[:, 0] == row][::-1]:
            data = data[:begin] + data[end:]
        left.append(data.decode() if found.keep_N[row] else None)
    return left


def same(one: DedupResult, other: DedupResult) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("first_N", "keep_N", "cuts_K3"))
