"""Curriculum: the plan that pretraining follows, which token ranges of which documents fill which sequence of which step."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from lm.config import Config, Seed, choice
from lm.tokenizer import Tokenizer
from tasks.core.config import ConfigError
from tasks.core.log import Log
from tasks.core.tables import read_table, shard_paths, write_table
from tasks.curriculum import methods, orders, prefixes
from tasks.curriculum.measure import metrics_of
from tasks.curriculum.orders import Shuffled
from tasks.curriculum.plan import PADDING, Budget, Documents, Prefixes, Ranges
from tasks.curriculum.prefixes import NoPrefix
from tasks.curriculum.ramp import Ramp
from tasks.curriculum.stream import drawing

SCHEMA = pa.schema([(name, pa.int32()) for name in ("step", "sequence", "document", "offset", "length")])
# Differences, for what is close to its neighbour; of the offsets half are 0, which compresses better in bytes side by side
ENCODINGS = dict.fromkeys(SCHEMA.names, "DELTA_BINARY_PACKED") | {"offset": "BYTE_STREAM_SPLIT"}


class CurriculumConfig(Config):
    method: choice(methods)
    order: choice(orders) = Field(default=Shuffled(), description="which documents come when")
    prefix: choice(prefixes) = Field(default=NoPrefix(), description="what stands before a document")
    tokens: int = Field(gt=0, description="predictions in all")
    tokens_per_step: int = Field(gt=0, description="predictions a step")
    ramp: Ramp = Field(default=Ramp(), description="smaller steps first")
    seed: Seed

    @model_validator(mode="after")
    def _method_follows_the_order(self) -> "CurriculumConfig":
        for slot, plain in (("order", Shuffled()), ("prefix", NoPrefix())):
            chosen = getattr(self, slot)
            if not self.method.takes_orders and chosen != plain:
                raise ValueError(
                    f"method {self.method.name} has an order of its own: {slot} must be {plain.name}, not {chosen.name}"
                )
        return self


def read_documents(path: Path) -> Documents:
    """The documents that are not held out."""
    there = pq.read_schema(shard_paths(path)[0]).names
    scored = [name for name in there if name.startswith("score_")]
    table = read_table(path, ["split", "source", "length", "bytes", *scored])
    rows = np.flatnonzero(pc.equal(table.column("split"), "train").to_numpy())
    if not len(rows):
        raise ConfigError(f"{path}: has no document to train on; lower tokenize.held_out_fraction")
    source = table.column("source").combine_chunks().dictionary_encode()
    names = np.array(source.dictionary.to_pylist())
    sources, codes = np.unique(names, return_inverse=True)  # sorted, so that no order of documents shows
    length, size = (table.column(name).to_numpy()[rows] for name in ("length", "bytes"))
    return Documents(
        rows,
        length,
        codes[source.indices.to_numpy()[rows]].astype(np.int32),
        tuple(sources.tolist()),
        {"length": length, "bytes_per_token": size / length}
        | {name.removeprefix("score_"): table.column(name).to_numpy()[rows] for name in scored},
    )


def run(config: CurriculumConfig, data: Path, log: Log) -> dict[str, float]:
    """data/tokenize -> data/curriculum: plan.parquet, and prefixes.npy where the plan has prefixes or padding."""
    documents = read_documents(data / "tokenize" / "documents.parquet")
    budget = Budget(config.tokens, config.tokens_per_step)
    if not budget.steps:
        raise ConfigError(
            f"curriculum.tokens: {config.tokens} is less than one step of {config.tokens_per_step} tokens"
        )
    chosen = config.prefix(documents, config.seed)
    lengths, written = tokens_of(chosen, data / "tokenize")
    draw = drawing(documents, config.order, chosen, lengths, config.seed)
    plan = config.ramp(config.method(documents, draw, budget, config.seed))
    padding = plan.document == PADDING
    offset = np.where(padding, len(written), plan.offset)  # padding stands behind the prefixes
    write_plan(data / "curriculum" / "plan.parquet", replace(plan, offset=offset))
    if (plan.document < 0).any():
        pad_id = Tokenizer.load(data / "tokenize").pad_id
        filler = np.full(plan.length[padding].max(initial=0), pad_id)
        np.save(data / "curriculum" / "prefixes.npy", np.concatenate((written, filler)).astype(np.uint32))
    return metrics_of(plan, documents)


def write_plan(path: Path, plan: Ranges) -> None:
    """The ranges as a table, a row each."""
    columns = {name: pa.array(getattr(plan, name), kind) for name, kind in zip(SCHEMA.names, SCHEMA.types, strict=True)}
    write_table(path, pa.table(columns), ENCODINGS)


def tokens_of(chosen: Prefixes | None, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens each prefix has, and all of them end to end."""
    if chosen is None:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    encoded = Tokenizer.load(folder).encode_batch(chosen.texts)
    return np.array([len(ids) for ids in encoded]), np.array([i for ids in encoded for i in ids], dtype=np.int64)
