"""How much of each held-out document stands word for word in training.

Text is compared in stretches (grams) of GRAM bytes, white space and the case of ASCII letters aside; a shorter document is one
gram. A document's overlap is the share of its grams that a document of training has too. PaLM (arXiv:2204.02311, section 8)
does so with 8 words, which are about as many bytes; bytes need no notion of a word, and hold for code and for any script.

Four steps, none of which depends on how documents are cut into shards: the grams of the held-out documents of each shard, a
table of them all, which of them the training documents of each shard have, and a table of these.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.core.parts import Facts, Part
from tasks.core.tables import prefetch, read_batches
from tasks.core.texts import GRAM, text_buffers
from tasks.tokenize.sides import Rule

# Where held-out documents have more grams, a sample of so many, by their hashes, stands for all: 128 MiB of slots.
MOST_GRAMS = 1 << 23
KEYS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Side:
    """A shard, and who is held out."""

    path: Path
    rule: Rule


@dataclass(frozen=True)
class Table:
    """What `held_grams` found in all shards, and the highest key that is looked for."""

    parts: tuple[Path, ...]
    limit: int


@dataclass(frozen=True)
class Search:
    """A shard whose training documents are searched for what the table in this folder has, grams of these lengths."""

    side: Side
    table: Path
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class OverlapSearch:
    """What `gather_seen` gathers: the parts of `search`."""

    parts: tuple[Path, ...]


def held_grams(side: Side, folder: Path) -> Facts:
    """Write keys.raw, the grams of a shard's held-out documents; how many there are in all, and of which lengths."""
    from tasks.core.grams import folded_lengths, grams_of

    count, lengths = 0, set[int]()
    with (folder / "keys.raw").open("wb") as keys:
        for texts in _texts(side, held_out=True):
            data, offsets = text_buffers(texts)
            for row, length in enumerate(np.minimum(folded_lengths(data, offsets), GRAM).tolist()):
                if length:
                    found = grams_of(data, offsets[row], offsets[row + 1], length)
                    keys.write(found.data)
                    count += len(found)
                    lengths.add(length)
    return {"grams": count, "lengths": sorted(lengths)}


def make_table(item: Table, folder: Path) -> Facts:
    """Write slots.npy and bits.npy of the grams up to the limit."""
    from tasks.core.grams import bits_of, table_of

    keys = _union([keys[keys <= np.uint64(item.limit)] for path in item.parts for keys in _pieces(path / "keys.raw")])
    np.save(folder / "slots.npy", table_of(keys))
    np.save(folder / "bits.npy", bits_of(keys))
    return {"grams": len(keys)}


def search(item: Search, folder: Path) -> Facts:
    """Write seen.npy, the grams of the table that training documents of a shard have."""
    from tasks.core.grams import mark

    slots, bits = _mapped(item.table / "slots.npy"), _mapped(item.table / "bits.npy")
    seen_S = np.zeros(len(slots), dtype=bool)
    for texts in prefetch(_texts(item.side, held_out=False)):
        data, offsets = text_buffers(texts)
        for length in item.lengths:
            mark(data, offsets, length, bits, slots, seen_S)
    np.save(folder / "seen.npy", np.sort(slots[seen_S]))
    return {"seen": int(seen_S.sum())}


def gather_seen(item: OverlapSearch, folder: Path) -> Facts:
    """Write slots.npy, a table of all grams that were seen."""
    from tasks.core.grams import table_of

    keys = _union([np.load(path / "seen.npy") for path in item.parts])
    np.save(folder / "slots.npy", table_of(keys))
    return {"seen": len(keys)}


def limit_of(parts: Sequence[Part]) -> int:
    """The highest key that is looked for, so that about MOST_GRAMS are at most; keys are spread evenly over 64 bits."""
    count = sum(part.facts["grams"] for part in parts)
    return 2**64 - 1 if count <= MOST_GRAMS else 2**64 * MOST_GRAMS // count


@dataclass(frozen=True)
class Overlap:
    """Counts grams: those in the table of this folder, and those up to the limit."""

    table: Path
    limit: int

    def __call__(self, texts: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
        """How many grams of each of N documents stand in training, and how many were looked for."""
        from tasks.core.grams import count_seen, folded_lengths

        slots = _mapped(self.table / "slots.npy")
        data, offsets = text_buffers(texts)
        lengths = np.minimum(folded_lengths(data, offsets), GRAM)
        found = np.zeros((2, len(texts)), dtype=np.int64)
        for row in np.flatnonzero(lengths):
            found[:, row] = count_seen(data, offsets[row], offsets[row + 1], lengths[row], slots, np.uint64(self.limit))
        return found[0], found[1]


def _texts(side: Side, held_out: bool) -> Iterator[pa.LargeStringArray]:
    """The texts of one side, a row group at a time."""
    for batch in read_batches(side.path, ["id", "meta", "text"]):
        if batch.num_rows:
            chosen, _ = side.rule(batch)
            yield batch.column("text").filter(pa.array(chosen == held_out)).cast(pa.large_string())


def _mapped(path: Path) -> np.ndarray:
    """An array that stays on disk, and that processes share."""
    return np.asarray(np.load(path, mmap_mode="r"))


def _pieces(path: Path) -> Iterator[np.ndarray]:
    """Keys of a file, KEYS_AT_ONCE at a time."""
    with path.open("rb") as file:
        while len(keys := np.fromfile(file, np.uint64, KEYS_AT_ONCE)):
            yield keys


def _union(keys: Sequence[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate([np.zeros(0, np.uint64), *keys]))
