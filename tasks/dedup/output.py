"""The tables that dedup writes: what stays, the clusters, and what goes with its reason; shard by shard."""

from collections import Counter
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.log import Log
from tasks.core.parts import LEAST, Facts, link_or_copy
from tasks.core.tables import Writer, prefetch, read_batches, row_bytes, shard_path
from tasks.dedup.decisions import Decisions
from tasks.dedup.documents import Documents

CLUSTERS = pa.schema([("id", pa.string()), ("cluster", pa.string()), ("keep", pa.bool_()), ("reason", pa.string())])
DROPPED = pa.schema(
    [("id", pa.string()), ("source", pa.string()), ("reason", pa.string()), ("text", pa.large_string())]
)
EXCERPT = 2000
TABLES = ("documents", "clusters", "dropped")
# (file of the shard, number of its first row, folder of the decisions, Decisions.reasons)
Item = tuple[Path, int, Path, list[tuple[str, str]]]


def write_output(table: Path, decisions: Decisions, out: Path, log: Log) -> Counter[str]:
    """Write out/documents, out/clusters and out/dropped. Returns the sums of write_shard's facts."""
    folder = log.parts / "decisions"
    decisions.save(folder)
    documents = Documents(table, np.ones(len(decisions.keep_N), dtype=bool))
    _save_ids(documents, decisions, folder)
    items: list[Item] = [(each.path, each.first, folder, decisions.reasons) for each in documents.shards]
    counts: Counter[str] = Counter()
    for number, part in enumerate(log.map(write_shard, items, "output", least=LEAST)):
        counts.update(part.facts)
        for name in TABLES:
            link_or_copy(part.folder / f"{name}.parquet", shard_path(out / name, number))
    return counts


def _save_ids(documents: Documents, decisions: Decisions, folder: Path) -> None:
    """The ids of the rows that others have as their first, and the numbers of these rows, ascending."""
    named = np.unique(decisions.cluster_N[decisions.cluster_N != np.arange(len(decisions.cluster_N))])
    np.save(folder / "named.npy", named)
    wanted = np.zeros(len(decisions.keep_N), dtype=bool)
    wanted[named] = True
    with (
        pa.OSFile(str(folder / "ids.arrow"), "wb") as file,
        pa.ipc.new_file(file, pa.schema([CLUSTERS.field(0)])) as to,
    ):
        for _, batch in Documents(documents.table, wanted).batches(["id"]):
            to.write_batch(batch)


def write_shard(item: Item, folder: Path) -> Facts:
    """The rows of one shard into the three tables. Facts: kept, emptied, bytes, bytes_cut, and the rows that went by slot."""
    path, row, decided, reasons = item
    counts: Counter[str] = Counter()
    with ExitStack() as open_files:
        schemas = zip(TABLES, (pq.read_schema(path), CLUSTERS, DROPPED), strict=True)
        documents, clusters, dropped = [
            open_files.enter_context(Writer(folder / f"{name}.parquet", schema)) for name, schema in schemas
        ]
        decisions, named = Decisions.load(decided, reasons), Named(decided)
        for batch in prefetch(read_batches(path)):
            keep, reason, cluster = _decided(batch, row, decisions, named, counts)
            left, emptied = _cut(batch, row, keep, decisions.cuts_K3)
            keep, reason = keep & ~emptied, pc.if_else(pa.array(emptied), "emptied", reason)
            clusters.write(pa.record_batch([batch["id"], cluster, pa.array(keep), reason], schema=CLUSTERS))
            gone = batch.filter(pa.array(~keep))
            columns = [gone["id"], gone["source"], reason.filter(pa.array(~keep))]
            columns += [pc.utf8_slice_codeunits(gone["text"], 0, EXCERPT)]
            dropped.write(pa.record_batch(columns, schema=DROPPED))
            before, after = (int(row_bytes(each.select(["text"]))[keep].sum()) for each in (batch, left))
            documents.write(left.filter(pa.array(keep)))
            counts += Counter(kept=int(keep.sum()), emptied=int(emptied.sum()), bytes=after, bytes_cut=before - after)
            row += batch.num_rows
    return dict(counts)


class Named:
    """The ids that _save_ids has written, mapped into memory."""

    def __init__(self, folder: Path) -> None:
        self.rows = np.load(folder / "named.npy", mmap_mode="r")
        self._ids = pa.ipc.open_file(pa.memory_map(str(folder / "ids.arrow"))).read_all()["id"]

    def ids(self, rows: np.ndarray, given: np.ndarray) -> pa.Array:
        """The ids of these rows; null where nothing is `given`."""
        return self._ids.take(pa.array(np.searchsorted(self.rows, rows), mask=~given)).combine_chunks()


def _decided(
    batch: pa.RecordBatch, row: int, decisions: Decisions, named: Named, counts: Counter[str]
) -> tuple[np.ndarray, pa.Array, pa.Array]:
    """Whether each row stays, why those go that do, and the id of the first of its cluster. Adds to `counts` what each slot
    drops."""
    rows = slice(row, row + batch.num_rows)
    keep, why, first = (np.array(each[rows]) for each in (decisions.keep_N, decisions.why_N, decisions.cluster_N))
    follows = first != np.arange(rows.start, rows.stop)
    cluster = pc.coalesce(named.ids(first, follows), batch["id"])
    for number, (slot, _) in enumerate(decisions.reasons):
        counts[slot] += int((why == number).sum())
    kinds = pa.array([kind for _, kind in decisions.reasons], pa.string())
    copies = pc.binary_join_element_wise("duplicate_of", cluster, ":")
    reason = pc.if_else(pa.array(follows), copies, kinds.take(pa.array(why, mask=why < 0)))
    return keep, pc.if_else(pa.array(keep), pa.scalar(None, pa.string()), reason), cluster


def _cut(batch: pa.RecordBatch, row: int, keep: np.ndarray, cuts_K3: np.ndarray) -> tuple[pa.RecordBatch, np.ndarray]:
    """The rows without what the cuts take out of those that stay, and which of them are left with white space at most."""
    emptied = np.zeros(batch.num_rows, dtype=bool)
    begin, end = np.searchsorted(cuts_K3[:, 0], [row, row + batch.num_rows])
    if begin == end:
        return batch, emptied
    texts = batch["text"].to_pylist()
    for place, cuts in groupby(cuts_K3[begin:end].tolist(), key=lambda cut: cut[0] - row):
        if keep[place]:
            data = texts[place].encode()
            edges = [0, *(edge for _, *both in cuts for edge in both), len(data)]
            texts[place] = b"".join(data[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)).decode()
            emptied[place] = not texts[place].strip()
    number = batch.schema.get_field_index("text")
    return batch.set_column(number, "text", pa.array(texts, pa.large_string())), emptied
