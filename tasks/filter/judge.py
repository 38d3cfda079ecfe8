"""One shard through all rules: what stays, what is dropped, and what was changed of what stays."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.parts import Facts
from tasks.core.tables import Writer, prefetch, read_batches
from tasks.filter.changes import CHANGED, rows_of_changed
from tasks.filter.rule import Batch, Rule

TABLES = ("documents", "dropped", "changed")
DROPPED = pa.schema(
    [("id", pa.string()), ("source", pa.string()), ("reason", pa.string()), ("text", pa.large_string())]
)
COLUMNS = ["id", "source", "text", "meta"]
EXCERPT = 2000  # characters of a text in `dropped`


@dataclass(frozen=True)
class Work:
    """A shard, the rules by slot in their order, and the folder with what each prepared."""

    number: int
    path: Path
    rules: dict[str, Rule]
    prepared: Path


@dataclass
class Verdict:
    """What is said of N documents: the first reason against each, or None; their texts in the end; scores and counts, N a
    name."""

    reasons: np.ndarray
    texts: pa.LargeStringArray
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    counts: dict[str, np.ndarray] = field(default_factory=dict)


def undecided(reasons: np.ndarray) -> np.ndarray:
    """Whether nothing speaks against each of N documents, as bools."""
    return np.array([reason is None for reason in reasons], dtype=bool)


def judge(batch: Batch, rules: dict[str, Rule], prepared: Path) -> Verdict:
    """What the rules say together; a rule is heard about the documents of its `sources` alone, if it has any."""
    verdict = Verdict(np.full(len(batch.texts), None, dtype=object), batch.texts)
    for slot, rule in rules.items():
        said = rule.judge(batch, prepared / slot)
        heard = np.ones(len(batch.texts), dtype=bool)
        if rule.sources is not None:
            heard = np.asarray(pc.is_in(batch.sources, pa.array(rule.sources, batch.sources.type)))
        first = heard & undecided(verdict.reasons)
        verdict.reasons[first] = said.reasons[first]
        if said.texts is not None:
            batch = replace(batch, texts=pc.if_else(pa.array(first), said.texts, batch.texts))
        verdict.scores |= said.scores
        for name, count in said.counts.items():
            verdict.counts[name] = verdict.counts.get(name, 0) + np.where(first, count, 0)
    verdict.texts = batch.texts
    return verdict


def judged(work: Work) -> Iterator[tuple[pa.RecordBatch, Verdict]]:
    """The rows of a shard, a batch at a time, each with what the rules say of it."""
    first = 0
    for rows in prefetch(read_batches(work.path, COLUMNS)):
        batch = Batch(work.number, first, rows["source"], rows["text"], rows["meta"])
        yield rows, judge(batch, work.rules, work.prepared)
        first += rows.num_rows


def judge_shard(work: Work, folder: Path) -> Facts:
    """Write documents, dropped and changed; the facts are the shard's share of the stage's metrics. A thread judges the next
    batch while one is written."""
    nothing = Batch(work.number, 0, *(pa.array([], kind) for kind in (pa.string(), pa.large_string(), pa.string())))
    scores = judge(nothing, work.rules, work.prepared).scores
    kinds = [("id", pa.string()), ("source", pa.string()), ("text", pa.large_string()), ("meta", pa.string())]
    schema = pa.schema(kinds + [(f"score_{name}", pa.float32()) for name in sorted(scores)])
    sums: Counter[str] = Counter()
    with (
        Writer(folder / "documents.parquet", schema) as documents,
        Writer(folder / "dropped.parquet", DROPPED) as dropped,
        Writer(folder / "changed.parquet", CHANGED) as changed,
    ):
        for rows, verdict in prefetch(judged(work)):
            stays = undecided(verdict.reasons)
            columns = [rows["id"], rows["source"], verdict.texts, rows["meta"]]
            columns += [pa.array(verdict.scores[name], pa.float32()) for name in sorted(scores)]
            kept = pa.record_batch(columns, schema=schema).filter(pa.array(stays))
            documents.write(kept)
            dropped.write(rows_of_dropped(rows, verdict.reasons, stays))
            changed.write(rows_of_changed(rows, verdict.texts, verdict.counts, stays))
            sums.update(_facts(verdict, stays, kept["text"]))
    return dict(sums)


def rows_of_dropped(rows: pa.RecordBatch, reasons: np.ndarray, stays: np.ndarray) -> pa.RecordBatch:
    """What the first reason speaks against, as it was before any rule changed it."""
    gone = rows.filter(pa.array(~stays))
    excerpts = pc.utf8_slice_codeunits(gone["text"], 0, EXCERPT)
    return pa.record_batch(
        [gone["id"], gone["source"], pa.array(reasons[~stays], pa.string()), excerpts], schema=DROPPED
    )


def _facts(verdict: Verdict, stays: np.ndarray, texts: pa.LargeStringArray) -> dict[str, int]:
    kinds = Counter(reason.partition(":")[0] for reason in verdict.reasons[~stays])
    return {
        "documents": len(stays),
        "kept": int(stays.sum()),
        "dropped": int((~stays).sum()),
        "bytes": pc.sum(pc.binary_length(texts)).as_py() or 0,
        **{f"dropped_{kind}": count for kind, count in kinds.items()},
        **{name: int(count[stays].sum()) for name, count in verdict.counts.items()},
    }
