"""Where each key of a corpus occurs first, out of core: every shard sorts its own, and ranges of keys are then settled alone.

A key is 128 bits in two columns, the first of them uniform. A shard's keys are sorted and unique; with each goes the first
place where the shard has it, and whether it has it again. K keys.
"""

from pathlib import Path

import numpy as np

from tasks.core.log import Log
from tasks.core.parts import Part, workers
from tasks.core.process import memory_budget

COLUMNS = {"high": np.uint64, "low": np.uint64, "first": np.int64, "again": np.bool_}
# Bytes of memory that sorting takes for a key: its columns, their sorted copies, and the order.
BYTES_A_KEY = 96


def mapped_column(folder: Path, name: str, kind: type | None = None) -> np.ndarray:
    """A column of a part, left on disk."""
    path, kind = folder / name, kind or COLUMNS[name]
    return np.memmap(path, kind, mode="r") if path.stat().st_size else np.empty(0, kind)


def ranges(keys: int) -> int:
    """Into how many ranges as many keys are cut, so that each worker's fits into its share of the memory."""
    return max(1, -(-keys * BYTES_A_KEY * workers() // memory_budget()))


def bounds(number: int, count: int) -> tuple[int, int]:
    """The first and the last value of a range of the first column."""
    return number * 2**64 // count, (number + 1) * 2**64 // count - 1


def slice_of(high_K: np.ndarray, number: int, count: int) -> slice:
    """The places of a range's keys."""
    low, high = bounds(number, count)
    return slice(
        int(np.searchsorted(high_K, np.uint64(low))), int(np.searchsorted(high_K, np.uint64(high), side="right"))
    )


def is_member(values_N: np.ndarray, sorted_K: np.ndarray) -> np.ndarray:
    """N bools: which values are among the keys, sorted and unique."""
    if not len(sorted_K):
        return np.zeros(len(values_N), dtype=np.bool_)
    places = np.minimum(np.searchsorted(sorted_K, values_N), len(sorted_K) - 1)
    return sorted_K[places] == values_N


def grouped(high_K: np.ndarray, low_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(order of the keys, equal ones as they came; K bools: whether a key in that order is another than the one before)."""
    order = np.argsort(high_K, kind="stable")
    high, low = high_K[order], low_K[order]
    if (
        (high[1:] == high[:-1]) & (low[1:] != low[:-1])
    ).any():  # of 2^32 keys one pair; sorting by both takes twice as long
        order = np.lexsort((low_K, high_K))
        high, low = high_K[order], low_K[order]
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    return order, new


def settle(item: tuple[int, int, list[Path]], folder: Path) -> dict[str, int]:
    """Write, for every key of one range of every shard, in their order: the first place in the corpus, -1 where it is alone."""
    number, count, parts = item
    mine = [slice_of(mapped_column(part, "high"), number, count) for part in parts]
    high, low, first, again = (
        np.concatenate([mapped_column(part, name)[own] for part, own in zip(parts, mine, strict=True)])
        for name in COLUMNS
    )
    order, new = grouped(high, low)  # equal keys stay in the order of shards, so the first place leads
    starts = np.flatnonzero(new)
    repeated = np.diff(starts, append=len(order)) > 1
    if len(starts):
        repeated |= np.logical_or.reduceat(again[order], starts)
    settled = np.empty(len(order), dtype=np.int64)
    settled[order] = np.where(repeated, first[order[starts]], -1)[np.cumsum(new) - 1]
    settled.tofile(folder / "settled")
    np.array([own.stop - own.start for own in mine], dtype=np.int64).tofile(folder / "sizes")
    return {}


def settled_of(settled: list[Path], shard: int) -> np.ndarray:
    """K places of the corpus, for the K keys of a shard."""
    pieces = []
    for folder in settled:
        ends = np.cumsum(mapped_column(folder, "sizes", np.int64))
        size = int(ends[shard] - (ends[shard - 1] if shard else 0))
        pieces.append(mapped_column(folder, "settled", np.int64)[int(ends[shard]) - size : int(ends[shard])])
    return np.concatenate(pieces)


def settle_all(parts: list[Part], name: str, log: Log) -> list[Path]:
    """The folders of all ranges, for `settled_of`. Each part has COLUMNS, and its number of keys in its facts as `keys`."""
    count = ranges(sum(part.facts["keys"] for part in parts))
    folders = [part.folder for part in parts]
    # the memory given decides the ranges: those of another run with other memory are not taken for these
    made = log.map(settle, [(number, count, folders) for number in range(count)], f"{name}_{count}", "range")
    return [part.folder for part in made]


def append_keys(folder: Path, high: np.ndarray, low: np.ndarray, places: np.ndarray) -> int:
    """Sort a range of a shard's keys, whose places ascend, behind those it has; also `counts`, and `places` in that order."""
    order, new = grouped(high, low)
    high, low, places = high[order], low[order], places[order]
    starts = np.flatnonzero(new)
    counts = np.diff(starts, append=len(order))
    columns = {"high": high[starts], "low": low[starts], "first": places[starts], "again": counts > 1}
    for name, values in {**columns, "counts": counts, "places": places}.items():
        with (folder / name).open("ab") as file:
            values.tofile(file)
    return len(starts)
