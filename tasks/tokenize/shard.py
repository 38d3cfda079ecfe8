"""Of one shard: which documents are held out, and its tokens."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from tasks.core.parts import Facts
from tasks.core.tables import Writer, ahead, read_batches
from tasks.tokenize.encoder import Encoder, buffers_of, encoder

SCHEMA = pa.schema(
    [("id", pa.string()), ("source", pa.string()), ("split", pa.string())]
    + [(name, pa.int64()) for name in ("start", "length", "bytes")]
)
HELD_OUT_SCHEMA = pa.schema([("id", pa.string()), ("source", pa.string()), ("text", pa.large_string())])
# Another seed than any hash that documents are ordered by: the front of the corpus is not to be what is held out.
SEED = 0x68656C64


def points(ids: pa.Array) -> np.ndarray:
    """N numbers of 64 bits, one for each id: its XXH3."""
    digest = partial(xxhash.xxh3_64_intdigest, seed=SEED)
    return np.fromiter(map(digest, ids.cast(pa.binary()).to_pylist()), dtype=np.uint64, count=len(ids))


def score_columns(path: Path) -> list[pa.Field]:
    """What filter found out about each document; carried along."""
    return [field for field in pq.read_schema(path) if field.name.startswith("score_")]


def survey(path: Path, folder: Path) -> Facts:
    """How many documents a shard has, and their lowest and highest points."""
    count, low, high = 0, 2**64, -1
    for batch in read_batches(path, ["id"]):
        if batch.num_rows:
            found = points(batch.column(0))
            count, low, high = count + len(found), min(low, int(found.min())), max(high, int(found.max()))
    return {"documents": count, "lowest": low, "highest": high}


@dataclass(frozen=True)
class Shard:
    """What is needed to encode one: its file, the folder of tokenizer.json, the point below which a document is held out."""

    path: Path
    tokenizer: Path
    encoder: str
    eos_id: int
    dtype: str
    held_out_below: int


def encode(shard: Shard, folder: Path) -> Facts:
    """Write tokens.raw, documents.parquet (starts counted from the shard's) and held_out.parquet."""
    encode_texts = encoder(shard.encoder, (shard.tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    scores = [field.name for field in score_columns(shard.path)]
    schema = pa.schema([*SCHEMA, *score_columns(shard.path)])
    rows = held_rows = position = training = size = 0
    with (
        (folder / "tokens.raw").open("wb") as tokens,
        Writer(folder / "documents.parquet", schema) as documents,
        Writer(folder / "held_out.parquet", HELD_OUT_SCHEMA) as held,
    ):
        # three things go on at once: reading, encoding, writing
        batches = ahead(read_batches(shard.path, ["id", "source", "text", *scores]))
        for batch, ids, offsets in ahead(encoded(batches, encode_texts)):
            chosen = points(batch.column("id")) < np.uint64(shard.held_out_below)
            lengths = np.diff(offsets) + 1
            ends = np.cumsum(lengths)
            tokens.write(ended(ids, ends, shard.eos_id, shard.dtype).data)
            sizes = np.diff(buffers_of(batch.column("text"))[0])
            columns = [
                batch.column("id"),
                batch.column("source"),
                pc.if_else(pa.array(chosen), "held_out", "train"),
                pa.array(position + ends - lengths),
                pa.array(lengths),
                pa.array(sizes),
                *(batch.column(name) for name in scores),
            ]
            documents.write(pa.RecordBatch.from_arrays(columns, schema=schema))
            held.write(batch.select(["id", "source", "text"]).filter(pa.array(chosen)))
            rows += len(chosen)
            held_rows += int(chosen.sum())
            position += int(ends[-1])
            training += int(lengths[~chosen].sum())
            size += int(sizes.sum())
    return {"documents": rows, "held_out": held_rows, "tokens": position, "train_tokens": training, "bytes": size}


def encoded(
    batches: Iterable[pa.RecordBatch], encode_texts: Encoder
) -> Iterator[tuple[pa.RecordBatch, np.ndarray, np.ndarray]]:
    """(batch, ids, offsets) of each that has rows, its texts as large strings; ids and offsets as of Encoder."""
    for batch in batches:
        if batch.num_rows:
            texts = batch.column("text").cast(pa.large_string())
            yield batch.set_column(batch.schema.get_field_index("text"), "text", texts), *encode_texts(texts)


def ended(ids: np.ndarray, ends: np.ndarray, eos_id: int, dtype: str) -> np.ndarray:
    """The ids of N documents with eos_id after each; `ends` says where each document then ends."""
    found = np.empty(len(ids) + len(ends), dtype=dtype)
    text = np.ones(len(found), dtype=bool)
    text[ends - 1] = False
    found[text] = ids
    found[ends - 1] = eos_id
    return found
