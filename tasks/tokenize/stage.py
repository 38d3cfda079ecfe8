"""Tokenize: holds documents out, trains the tokenizer on the others, and encodes everything, shard by shard."""

import shutil
import sys
from collections import Counter
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
from tasks.core.tables import Writer, read_batches, shard_paths
from tasks.tokenize import methods
from tasks.tokenize.encoder import why_not_gigatoken
from tasks.tokenize.overlap import (
    Overlap,
    OverlapSearch,
    Search,
    Side,
    Table,
    gather_seen,
    held_grams,
    limit_of,
    make_table,
    search,
)
from tasks.tokenize.round_trip import share_lost
from tasks.tokenize.shard import CONTAINED, HELD_OUT, HELD_OUT_SCHEMA, SCHEMA, TRAIN, Shard, encode, score_columns
from tasks.tokenize.sides import Rule, Surveyed, check_fields, held_out_below, survey

# What of the corpus both encoders are held to before one of them is chosen: at the speed of `tokenizers`, 50 ms.
CHECKED_DOCUMENTS, CHECKED_CHARACTERS = 64, 2048
COPIED_AT_ONCE = 1 << 20  # stays in the cache: half the time of 16 MiB


class TokenizeConfig(Config):
    method: choice(methods)
    checkpoint: Checkpoint
    held_out_fraction: float = Field(0.03, gt=0, lt=1, description="of the groups, chosen by a hash of their name")
    group_by: list[str] = Field(
        [],
        description="fields of the documents' meta: those of the same value are held out together, or trained on; where a "
        "document has none of them, its source says which belong together, else it is a group by itself",
    )
    max_overlap: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of a held-out document that may stand word for word in training; of more it is not measured",
    )


def train_texts(side: Side) -> Iterator[str]:
    """The texts that are not held out, one after another."""
    for batch in read_batches(side.path, ["id", "meta", "text"]):
        if batch.num_rows:
            chosen, _ = side.rule(batch)
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
    side: Side


def fit(training: Training, folder: Path) -> Facts:
    """Write tokenizer.json, and say why gigatoken cannot encode with it, or "", and which share of the characters it loses."""
    checkpoint = Path(training.config.checkpoint.folder)
    tokenizer = training.config.method(train_texts(training.side), checkpoint)
    tokenizer.save(folder)
    return {
        "why_not_gigatoken": why_not_gigatoken(tokenizer.to_json(), first_texts(training.side.path)),
        "characters_lost": share_lost(tokenizer, train_texts(training.side), checkpoint / "tokenizer.json"),
    }


def join(parts: list[Part], dtype: np.dtype, schema: pa.Schema, out: Path) -> int:
    """The parts of all shards, in their order, as tokens.npy, documents.parquet and held_out.parquet; how many groups are held
    out."""
    groups = set[str]()
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
                groups.update(batch.column("group").to_pylist())
            start += part.facts["tokens"]
    return len(groups)


def choose_held_out(config: TokenizeConfig, source: Path, files: Sequence[Path], log: Log) -> Rule:
    """Who is held out. Raises ConfigError where that leaves nothing on one side."""
    group_by = tuple(config.group_by)
    surveyed = log.map(survey, [Surveyed(file, group_by) for file in files], "survey", least=16 * LEAST)
    found = [part.facts for part in surveyed]
    count = sum(facts["documents"] for facts in found)
    if count < 2:
        raise ConfigError(
            f"{source}: has {count} documents; tokenize needs two at least, one to train on and one to hold out"
        )
    check_fields(found, group_by)
    return Rule(group_by, held_out_below(found, config.held_out_fraction))


def overlap_of(sides: Sequence[Side], log: Log) -> Overlap:
    """What of the held-out documents stands in the others."""
    parts = log.map(held_grams, sides, "grams", least=4 * LEAST)
    limit, lengths = limit_of(parts), sorted({length for part in parts for length in part.facts["lengths"]})
    (table,) = log.map(make_table, [Table(tuple(part.folder for part in parts), limit)], "table", "table")
    searches = [Search(side, table.folder, tuple(lengths)) for side in sides]
    found = tuple(part.folder for part in log.map(search, searches, "searched", least=LEAST))
    (seen,) = log.map(gather_seen, [OverlapSearch(found)], "seen", "table")
    return Overlap(seen.folder, limit)


def say_contained(config: TokenizeConfig, totals: Counter[str]) -> None:
    """A line where held-out documents are left out. Raises ConfigError where none remains."""
    contained = totals["contained_documents"]
    if not contained:
        return
    what = (
        f"{contained} of {contained + totals['held_out_documents']} held-out documents stand in training by more than "
        f"{config.max_overlap:.0%}"
    )
    if not totals["held_out_documents"]:
        raise ConfigError(
            f"tokenize: {what}, and nothing is left to measure: let dedup drop duplicates, name what belongs together in "
            "tokenize.group_by, or raise tokenize.max_overlap"
        )
    print(f"tokenize: {what}; they are neither trained on nor measured", file=sys.stderr)


def run(config: TokenizeConfig, data: Path, log: Log) -> dict[str, float]:
    """data/filter -> data/tokenize."""
    source, out = data / "filter" / "documents", data / "tokenize"
    files = shard_paths(source)
    rule = choose_held_out(config, source, files, log)
    sides = [Side(file, rule) for file in files]
    overlap = overlap_of(sides, log)
    try:
        (trained,) = log.map(fit, [Training(config, Side(source, rule))], "tokenizer", "tokenizer")
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
    jobs = [
        Shard(side, trained.folder, name, tokenizer.eos_id, dtype.str, overlap, config.max_overlap) for side in sides
    ]
    parts = log.map(encode, jobs, "encoded", least=LEAST)
    totals = Counter[str]()
    for part in parts:
        totals.update(part.facts)
    say_contained(config, totals)
    groups = join(parts, dtype, pa.schema([*SCHEMA, *score_columns(files[0])]), out)
    return {
        "documents": sum(totals[f"{split}_documents"] for split in (TRAIN, HELD_OUT, CONTAINED)),
        "train_documents": totals["train_documents"],
        "held_out_documents": totals["held_out_documents"],
        "held_out_groups": groups,
        "held_out_overlap": totals["seen_grams"] / max(totals["grams"], 1),
        "contained_documents": totals["contained_documents"],
        "tokens": totals["tokens"],
        "train_tokens": totals["train_tokens"],
        "held_out_tokens": totals["held_out_tokens"],
        "contained_tokens": totals["contained_tokens"],
        "bytes": totals["bytes"],
        "bytes_per_token": totals["bytes"] / totals["tokens"],
        "vocab_size": tokenizer.vocab_size,
        "characters_lost": trained.facts["characters_lost"],
    }
