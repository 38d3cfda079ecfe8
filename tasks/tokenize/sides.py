"""Which documents are held out: whole groups, by a hash of their name, or what the documents' meta says."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from tasks.core.config import ConfigError
from tasks.core.held_out import GROUP, HELD_OUT
from tasks.core.parts import Facts
from tasks.core.tables import read_batches

# Another seed than any hash that documents are ordered by: the front of the corpus is not to be what is held out.
SEED = 0x68656C64
NAMES_SHOWN = 12


def points(names: Sequence[str] | pa.Array) -> np.ndarray:
    """N numbers of 64 bits, one for each name: its XXH3."""
    digest = partial(xxhash.xxh3_64_intdigest, seed=SEED)
    column = names if isinstance(names, pa.Array) else pa.array(names, pa.string())
    return np.fromiter(map(digest, column.cast(pa.binary()).to_pylist()), dtype=np.uint64, count=len(column))


@dataclass(frozen=True)
class Groups:
    """What is known of N documents: the name of each one's group; given_N: 1 where its meta says that it is held out, 0 where
    it says that it is not, -1 where it says nothing; which fields their metas have."""

    names: list[str]
    given_N: np.ndarray
    fields: set[str]


def groups_of(ids: pa.Array, metas: pa.Array, group_by: Sequence[str]) -> Groups:
    """A group's name is the first of the fields `group_by` that a meta has, else what its source calls it, else the id."""
    names: list[str] = []
    given, fields = np.full(len(ids), -1, dtype=np.int8), set[str]()
    for row, (own, text) in enumerate(zip(ids.to_pylist(), metas.to_pylist(), strict=True)):
        meta: dict[str, Any] = {}
        if group_by or '"held_out' in text:
            meta = json.loads(text)
            fields.update(meta)
        named = (meta[field] for field in (*group_by, GROUP) if meta.get(field) is not None)
        names.append(_name(next(named, own)))
        if isinstance(meta.get(HELD_OUT), bool):
            given[row] = meta[HELD_OUT]
    return Groups(names, given, fields)


def _name(value: Any) -> str:
    """A string as it is; JSON of what is none, or what no file can hold (lone surrogates)."""
    if isinstance(value, str) and (value.isascii() or value.encode(errors="ignore").decode() == value):
        return value
    return json.dumps(value, sort_keys=True)


@dataclass(frozen=True)
class Rule:
    """The fields that name a document's group, and the point below which one is held out."""

    group_by: tuple[str, ...]
    below: int

    def __call__(self, batch: pa.RecordBatch) -> tuple[np.ndarray, list[str]]:
        """Whether each of N documents with id and meta is held out, and the names of their groups."""
        groups = groups_of(batch.column("id"), batch.column("meta"), self.group_by)
        chosen = points(groups.names) < np.uint64(self.below)
        return np.where(groups.given_N < 0, chosen, groups.given_N > 0), groups.names


@dataclass(frozen=True)
class Surveyed:
    """A shard and the fields that name groups."""

    path: Path
    group_by: tuple[str, ...]


def survey(item: Surveyed, folder: Path) -> Facts:
    """How many documents a shard has and how many are given to either side; the lowest and highest point of the others' groups;
    some of the fields of their metas."""
    count, given, low, high = 0, [0, 0], 2**64, -1
    named, some = set[str](), set[str]()
    for batch in read_batches(item.path, ["id", "meta"]):
        groups = groups_of(batch.column(0), batch.column(1), item.group_by)
        free = points(groups.names)[groups.given_N < 0]
        if len(free):
            low, high = min(low, int(free.min())), max(high, int(free.max()))
        count += batch.num_rows
        given = [given[side] + int((groups.given_N == side).sum()) for side in (0, 1)]
        named |= groups.fields.intersection(item.group_by)
        some = set(sorted(some | groups.fields)[:NAMES_SHOWN])
    return {
        "documents": count,
        "given_to_training": given[0],
        "given_to_held_out": given[1],
        "lowest": low,
        "highest": high,
        "fields": sorted(named | some),
    }


def held_out_below(found: Sequence[Facts], fraction: float) -> int:
    """The point below which a group is held out. Each decides for itself, so a grown corpus moves none; if that leaves a side
    without a document, the group of the lowest point is held out, or that of the highest is not.

    Raises ConfigError where all documents are of one group, or are given to one side.
    """
    below = int(fraction * 2**64)
    lowest, highest = min(facts["lowest"] for facts in found), max(facts["highest"] for facts in found)
    held, trained = (any(facts[f"given_to_{side}"] for facts in found) for side in ("held_out", "training"))
    if lowest > highest and not (held and trained):
        raise ConfigError(
            f"tokenize: the field `{HELD_OUT}` of the documents' meta is {str(held).lower()} in all of them; tokenize needs "
            "some to train on and some to hold out"
        )
    if lowest == highest and not (held or trained):
        raise ConfigError(
            "tokenize.group_by: all documents are of one group, which cannot be both trained on and held out: "
            "name another field"
        )
    if lowest <= highest:
        below = below if held else max(below, lowest + 1)
        below = below if trained else min(below, highest)
    return min(below, 2**64 - 1)


def check_fields(found: Sequence[Facts], group_by: Sequence[str]) -> None:
    """Raises ConfigError for a field that no document's meta has."""
    known = {field for facts in found for field in facts["fields"]}
    for field in group_by:
        if field not in known:
            others = ", ".join(sorted(known)[:NAMES_SHOWN])
            raise ConfigError(
                f"tokenize.group_by: no document's meta has a field {field!r}; "
                + (f"there are: {others}" if others else "it is empty in all: see ingest's meta_fields")
            )
