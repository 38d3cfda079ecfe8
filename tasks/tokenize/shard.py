"""Of one shard: its tokens, and which of its documents are held out."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.parts import Facts
from tasks.core.tables import Writer, prefetch, read_batches
from tasks.core.texts import text_buffers
from tasks.tokenize.encoder import Encoder, encoder
from tasks.tokenize.overlap import Overlap, Side

SCHEMA = pa.schema(
    [("id", pa.string()), ("source", pa.string()), ("split", pa.string())]
    + [(name, pa.int64()) for name in ("start", "length", "bytes")]
)
HELD_OUT_SCHEMA = pa.schema(
    [("id", pa.string()), ("source", pa.string()), ("group", pa.string()), ("text", pa.large_string())]
)
# What documents.parquet calls the three: trained on, measured, and neither, since training has most of it.
TRAIN, HELD_OUT, CONTAINED = "train", "held_out", "contained"


def score_columns(path: Path) -> list[pa.Field]:
    """What filter found out about each document; carried along."""
    return [field for field in pq.read_schema(path) if field.name.startswith("score_")]


@dataclass(frozen=True)
class Shard:
    """What is needed to encode one: its file and who is held out, the folder of tokenizer.json, and how much of a held-out
    document may stand in training."""

    side: Side
    tokenizer: Path
    encoder: str
    eos_id: int
    dtype: str
    overlap: Overlap
    max_overlap: float


def encode(shard: Shard, folder: Path) -> Facts:
    """Write tokens.raw, documents.parquet (starts counted from the shard's) and held_out.parquet."""
    encode_texts = encoder(shard.encoder, (shard.tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    path = shard.side.path
    scores = [field.name for field in score_columns(path)]
    schema = pa.schema([*SCHEMA, *score_columns(path)])
    totals, position = Counter[str](), 0
    with (
        (folder / "tokens.raw").open("wb") as tokens,
        Writer(folder / "documents.parquet", schema) as documents,
        Writer(folder / "held_out.parquet", HELD_OUT_SCHEMA) as held,
    ):
        # three things go on at once: reading, encoding, writing
        batches = prefetch(read_batches(path, ["id", "source", "meta", "text", *scores]))
        for batch, ids, offsets in prefetch(encoded(batches, encode_texts)):
            split_N, groups = divided(shard, batch, totals)
            lengths = np.diff(offsets) + 1
            ends = np.cumsum(lengths)
            tokens.write(append_eos(ids, ends, shard.eos_id, shard.dtype).data)
            sizes = np.diff(text_buffers(batch.column("text"))[1])
            columns = [
                batch.column("id"),
                batch.column("source"),
                pa.array(split_N),
                pa.array(position + ends - lengths),
                pa.array(lengths),
                pa.array(sizes),
                *(batch.column(name) for name in scores),
            ]
            documents.write(pa.RecordBatch.from_arrays(columns, schema=schema))
            kept = pa.array(split_N == HELD_OUT)
            columns = [batch.column("id"), batch.column("source"), pa.array(groups, pa.string()), batch.column("text")]
            held.write(pa.RecordBatch.from_arrays(columns, schema=HELD_OUT_SCHEMA).filter(kept))
            position += int(ends[-1])
            totals["bytes"] += int(sizes.sum())
            for split in (TRAIN, HELD_OUT, CONTAINED):
                totals[f"{split}_documents"] += int((split_N == split).sum())
                totals[f"{split}_tokens"] += int(lengths[split_N == split].sum())
    return {"tokens": position, **totals}


def divided(shard: Shard, batch: pa.RecordBatch, totals: Counter[str]) -> tuple[np.ndarray, list[str]]:
    """The split of each of N documents, and its group. Adds to totals the grams of what is held out, and of these the seen."""
    chosen, groups = shard.side.rule(batch)
    split_N = np.where(chosen, HELD_OUT, TRAIN).astype(object)
    seen, grams = shard.overlap(batch.column("text").filter(pa.array(chosen)))
    over = seen > shard.max_overlap * grams
    split_N[np.flatnonzero(chosen)[over]] = CONTAINED
    totals["grams"] += int(grams[~over].sum())
    totals["seen_grams"] += int(seen[~over].sum())
    return split_N, groups


def encoded(
    batches: Iterable[pa.RecordBatch], encode_texts: Encoder
) -> Iterator[tuple[pa.RecordBatch, np.ndarray, np.ndarray]]:
    """(batch, ids, offsets) of each that has rows, its texts as large strings; ids and offsets as of Encoder."""
    for batch in batches:
        if batch.num_rows:
            texts = batch.column("text").cast(pa.large_string())
            yield batch.set_column(batch.schema.get_field_index("text"), "text", texts), *encode_texts(texts)


def append_eos(ids: np.ndarray, ends: np.ndarray, eos_id: int, dtype: str) -> np.ndarray:
    """The ids of N documents with eos_id after each; `ends` says where each document then ends."""
    found = np.empty(len(ids) + len(ends), dtype=dtype)
    text = np.ones(len(found), dtype=bool)
    text[ends - 1] = False
    found[text] = ids
    found[ends - 1] = eos_id
    return found
