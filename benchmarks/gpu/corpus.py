"""What the data stages would have left for pretraining: random tokens of documents of lognormal length, in one stream."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.staged import tokenizer_of

MEAN_LENGTH, SIGMA = 500.0, 1.0  # tokens of a document


def prepare(folder: Path, vocab_size: int, steps: int, sequences: int, context: int) -> None:
    """folder/tokenize and folder/curriculum for so many steps of so many sequences, each of context + 1 tokens that follow
    those of the one before; and an empty folder/pretrain."""
    for name in ("tokenize", "curriculum", "pretrain"):
        (folder / name).mkdir(parents=True)
    tokenizer_of(vocab_size).save(folder / "tokenize")
    length = context + 1
    total = steps * sequences * length
    generator = np.random.default_rng(0)
    np.save(folder / "tokenize" / "tokens.npy", generator.integers(0, vocab_size, total, dtype=np.uint16))
    lengths = generator.lognormal(math.log(MEAN_LENGTH) - SIGMA**2 / 2, SIGMA, 2 + total // 50)
    ends = np.cumsum(np.ceil(lengths).astype(np.int64))
    starts = np.append(0, ends[ends < total])
    lengths = np.diff(np.append(starts, total))
    facts = {"start": starts, "length": lengths, "bytes": 4 * lengths}
    pq.write_table(pa.table(facts), folder / "tokenize" / "documents.parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), folder / "tokenize" / "held_out.parquet")
    pieces = np.union1d(
        starts, np.arange(0, total, length)
    )  # a range of the plan lies in one document and in one sequence
    document, sequence = np.searchsorted(starts, pieces, side="right") - 1, pieces // length
    columns = {
        "step": sequence // sequences,
        "sequence": sequence % sequences,
        "document": document,
        "offset": pieces - starts[document],
        "length": np.diff(np.append(pieces, total)),
    }
    pq.write_table(pa.table(columns), folder / "curriculum" / "plan.parquet")
