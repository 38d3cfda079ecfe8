"""Tokenize: holds documents out, trains the tokenizer on the others, and encodes everything, shard by shard."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from lm.config import Config, choice
from lm.tokenizer import Tokenizer
from tasks.core.config import Checkpoint, ConfigError
from tasks.core.log import Log
from tasks.core.parts import LEAST, Facts, Part
from tasks.core.stage import main
from tasks.core.tables import Writer, read_batches, shards
from tasks.tokenize import methods
from tasks.tokenize.encoder import why_not_gigatoken
from tasks.tokenize.shard import HELD_OUT_SCHEMA, SCHEMA, Shard, encode, points, score_columns, survey

# What of the corpus both encoders are held to before one of them is chosen: at the speed of `tokenizers`, 50 ms.
CHECKED_DOCUMENTS, CHECKED_CHARACTERS = 64, 2048
COPIED_AT_ONCE = 1 << 20  # stays in the cache: half the time of 16 MiB


class TokenizeConfig(Config):
    method: choice(methods)
    checkpoint: Checkpoint
    held_out_fraction: float = Field(0.03, gt=0, lt=1, description="of the documents, chosen by a hash of their id")


def held_out_below(found: Sequence[Facts], fraction: float) -> int:
    """The point below which a document is held out. Each id decides for itself, so a grown corpus moves none; if that takes
    all or none of them, the id with the lowest point is held out, or the highest is not."""
    lowest, highest = min(facts["lowest"] for facts in found), max(facts["highest"] for facts in found)
    return min(max(int(fraction * 2**64), lowest + 1), highest)


def train_texts(path: Path, below: int) -> Iterator[str]:
    """The texts that are not held out, one after another."""
    for batch in read_batches(path, ["id", "text"]):
        if batch.num_rows:
            chosen = points(batch.column("id")) < np.uint64(below)
            yield from batch.column("text").filter(pa.array(~chosen)).to_pylist()


def first_texts(path: Path) -> pa.LargeStringArray:
    """How CHECKED_DOCUMENTS texts at the front of the corpus begin."""
    found: list[pa.Array] = []
    for batch in read_batches(path, ["text"]):
        found.append(batch.column(0).slice(0, CHECKED_DOCUMENTS - sum(map(len, found))))
        if sum(map(len, found)) == CHECKED_DOCUMENTS:
            break
    return pc.utf8_slice_codeunits(pa.concat_arrays(found).cast(pa.large_string()), 0, CHECKED_CHARACTERS)


@dataclass(frozen=True)
class Training:
    """What is needed to make the tokenizer."""

    config: TokenizeConfig
    source: Path
    held_out_below: int


def fit(training: Training, folder: Path) -> Facts:
    """Write tokenizer.json, and say why gigatoken cannot encode with it, or ""."""
    texts = train_texts(training.source, training.held_out_below)
    tokenizer = training.config.method(texts, Path(training.config.checkpoint.folder))
    tokenizer.save(folder)
    return {"why_not_gigatoken": why_not_gigatoken(tokenizer.to_json(), first_texts(training.source))}


def join(parts: list[Part], dtype: np.dtype, schema: pa.Schema, out: Path) -> None:
    """The parts of all shards, in their order, as tokens.npy, documents.parquet and held_out.parquet."""
    total = sum(part.facts["tokens"] for part in parts)
    with (out / "tokens.npy").open("wb") as tokens:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (total,)}
        np.lib.format.write_array_header_1_0(tokens, header)
        for part in parts:
            with (part.folder / "tokens.raw").open("rb") as raw:
                shutil.copyfileobj(raw, tokens, COPIED_AT_ONCE)
    start, place = 0, SCHEMA.get_field_index("start")
    with (
        Writer(out / "documents.parquet", schema) as documents,
        Writer(out / "held_out.parquet", HELD_OUT_SCHEMA) as held,
    ):
        for part in parts:
            for batch in read_batches(part.folder / "documents.parquet"):
                moved = pa.array(batch.column(place).to_numpy() + start)
                documents.write(batch.set_column(place, SCHEMA.field(place), moved))
            for batch in read_batches(part.folder / "held_out.parquet"):
                held.write(batch)
            start += part.facts["tokens"]


def run(config: TokenizeConfig, data: Path, log: Log) -> dict[str, float]:
    """data/filter -> data/tokenize."""
    source, out = data / "filter" / "documents", data / "tokenize"
    files = shards(source)
    found = [part.facts for part in log.map(survey, files, "survey", least=16 * LEAST)]
    count = sum(facts["documents"] for facts in found)
    if count < 2:
        raise ConfigError(
            f"{source}: has {count} documents; tokenize needs two at least, one to train on and one to hold out"
        )
    below = held_out_below(found, config.held_out_fraction)
    try:
        (trained,) = log.map(fit, [Training(config, source, below)], "tokenizer", "tokenizer")
    except pa.ArrowInvalid:
        raise
    except ValueError as error:
        raise ConfigError(f"tokenize.method: {error}") from None
    reason = trained.facts["why_not_gigatoken"]
    if reason:
        print(f"tokenize: {reason}; encoding with `tokenizers`, which takes longer", file=sys.stderr)
    tokenizer = Tokenizer.load(trained.folder)
    tokenizer.save(out)
    tokenizer.save_contract(out)
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    name = "tokenizers" if reason else "gigatoken"
    jobs = [Shard(file, trained.folder, name, tokenizer.eos_id, dtype.str, below) for file in files]
    parts = log.map(encode, jobs, "encoded", least=LEAST)
    join(parts, dtype, pa.schema([*SCHEMA, *score_columns(files[0])]), out)
    totals = {name: sum(part.facts[name] for part in parts) for name in parts[0].facts}
    return {
        "documents": count,
        "train_documents": count - totals["held_out"],
        "held_out_documents": totals["held_out"],
        "tokens": totals["tokens"],
        "train_tokens": totals["train_tokens"],
        "held_out_tokens": totals["tokens"] - totals["train_tokens"],
        "bytes": totals["bytes"],
        "bytes_per_token": totals["bytes"] / totals["tokens"],
        "vocab_size": tokenizer.vocab_size,
    }


if __name__ == "__main__":
    main("tokenize", TokenizeConfig, run)
