"""Repeated substrings (ExactSubstr: Lee et al. 2021, arXiv:2107.06499): a span that stood before is cut out.

A token is cut when it lies in a span of at least `min_tokens` tokens that stood before, in an earlier document or earlier
in its own; of a window that overlaps its own first occurrence, only what goes beyond that. So the first window of a run
such as `ha ha ha` stays. This is what the suffix array of the paper finds, found otherwise: a span of L or more tokens is
repeated just when all its windows of L are, so equal windows are looked for, by digests of 122 bits. Only windows whose
anchor occurs twice are sorted, and ranges of digests one by one, so memory stays bounded. The paper's released code strikes
out every occurrence: that is `keep_first: false`.
Cutting joins what stood on both sides; what that makes anew is not looked at.
Letters: L tokens of a window, T tokens of a shard, K keys.
"""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from lm.config import Config
from tasks.core.log import Log
from tasks.core.parts import Part
from tasks.core.texts import text_buffers
from tasks.dedup.documents import NO_CUTS, DedupResult, Documents, Shard
from tasks.dedup.engine.sorted_keys import append_keys, bounds, is_member, mapped_column, ranges, settle_all, settled_of

WINDOWS_AT_ONCE = 1 << 18
# Windows that are marked at once, so that a shard of nothing but repeats stays in bounds.
MARKED_AT_ONCE = 1 << 22

NO_KEYS, NO_PLACES = np.empty(0, np.uint64), np.empty(0, np.int64)
Windows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def windows_of(
    texts: Iterable[tuple[np.ndarray, np.ndarray]], by_bytes: bool, size: int
) -> Generator[Windows, None, int]:
    """(digest, its second half, anchor, token that ends the anchor, first token) of all windows, some at a time, in order;
    the arrays are filled anew each time. Returns the number of tokens."""
    from tasks.dedup.engine.compiled_spans import scan

    gram = (size + 1) // 2
    ring_L, ring_W = np.zeros(size, np.uint64), np.zeros(size - gram + 1, np.uint64)
    out = [np.empty(WINDOWS_AT_ONCE, kind) for kind in (np.uint64, np.uint64, np.uint64, np.int64, np.int64)]
    tokens = 0
    for data, offsets in texts:
        place, hashes = np.zeros(5, np.int64), np.zeros(4, np.uint64)
        place[3] = tokens
        filled = WINDOWS_AT_ONCE
        while filled == WINDOWS_AT_ONCE:
            filled = scan(data, offsets, by_bytes, place, hashes, ring_L, ring_W, *out)
            if filled:
                high, low, anchor, anchor_place, token = (array[:filled] for array in out)
                yield high, low, anchor, anchor_place, token
        tokens = int(place[3])
    return tokens


@dataclass(frozen=True)
class Piece:
    """One shard of T tokens, `before` of them before it: the folder of its keys, and those of where each stands first."""

    shard: Shard
    config: "Substring"
    folder: Path
    settled: list[Path]
    number: int
    tokens: int
    before: int

    def firsts(self) -> np.ndarray:
        """K tokens of the corpus, -1 for a key that is alone."""
        return settled_of(self.settled, self.number)


def texts_of(shard: Shard) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for _, batch in shard.batches(["text"]):
        yield text_buffers(batch.column("text"))


def write_anchors(item: tuple[Shard, "Substring"], folder: Path) -> dict[str, Any]:
    """The hashes of a shard's anchors as keys."""
    shard, config = item
    found, last, tokens = [], np.int64(-1), 0

    def all_windows() -> Iterator[Windows]:
        nonlocal tokens
        tokens = yield from windows_of(texts_of(shard), config.unit == "bytes", config.min_tokens)

    for _, _, anchor, place, _ in all_windows():
        found.append(anchor[np.flatnonzero(np.diff(place, prepend=last))])
        last = place[-1]
    keys, counts = np.unique(np.concatenate([NO_KEYS, *found]), return_counts=True)
    for name, values in {"high": keys, "low": np.zeros_like(keys), "first": np.zeros_like(counts)}.items():
        values.tofile(folder / name)
    (counts > 1).tofile(folder / "again")
    return {"keys": len(keys), "tokens": tokens}


def candidates(piece: Piece, anchors: np.ndarray, number: int, count: int) -> Iterator[tuple[np.ndarray, ...]]:
    """(digest, its second half, first token of the corpus) of the windows with one of these anchors, in a range of digests."""
    first, last = (np.uint64(value) for value in bounds(number, count))
    yield NO_KEYS, NO_KEYS, NO_PLACES
    for high, low, anchor, place, token in windows_of(
        texts_of(piece.shard), piece.config.unit == "bytes", piece.config.min_tokens
    ):
        changes = np.flatnonzero(np.diff(place, prepend=-1))
        mine = np.repeat(is_member(anchor[changes], anchors), np.diff(changes, append=len(place)))
        if count > 1:
            mine &= (high >= first) & (high <= last)
        yield high[mine], low[mine], token[mine] + piece.before


def write_windows(piece: Piece, folder: Path) -> dict[str, Any]:
    """The digests, as keys, of a shard's windows whose anchor is repeated; places are tokens of the whole corpus."""
    anchors = np.asarray(mapped_column(piece.folder, "high"))[piece.firsts() >= 0]
    chosen: list[tuple[np.ndarray, ...]] = []
    total = 0
    for found in candidates(piece, anchors, 0, 1):
        total += len(found[0])
        if ranges(total) == 1:
            chosen.append(found)
        else:
            chosen.clear()
    count = ranges(total)
    if count == 1:
        return {"keys": append_keys(folder, *(np.concatenate(columns) for columns in zip(*chosen, strict=True)))}
    keys = 0
    for number in range(count):  # too many for the memory: the texts are read again for each range
        pieces = zip(*candidates(piece, anchors, number, count), strict=True)
        keys += append_keys(folder, *(np.concatenate(columns) for columns in pieces))
    return {"keys": keys}


def write_cuts(piece: Piece, folder: Path) -> dict[str, Any]:
    """`cuts`: (row, begin, end) of a shard, and `gone`: its rows that lose everything."""
    from tasks.dedup.engine.compiled_spans import cuts_of, mark

    config, before, size = piece.config, piece.before, piece.config.min_tokens
    firsts, counts = piece.firsts(), mapped_column(piece.folder, "counts", np.int64)
    places, ends = mapped_column(piece.folder, "places", np.int64), np.cumsum(counts)
    covered, key = np.zeros(piece.tokens, np.bool_), 0
    while key < len(firsts):
        done = int(ends[key - 1]) if key else 0
        until = max(key + 1, int(np.searchsorted(ends, done + MARKED_AT_ONCE, side="right")))
        first = np.repeat(firsts[key:until], counts[key:until])
        place = np.asarray(places[done : int(ends[until - 1])])
        cut = (first >= 0) & ((place != first) if config.keep_first else True)
        begins = np.maximum(place, first + size) if config.keep_first else place
        mark(covered, begins[cut] - before, place[cut] + size - before)
        key = until
    token, cuts, gone = 0, [NO_CUTS], [NO_PLACES]
    for rows, batch in piece.shard.batches(["text"]):
        data, offsets = text_buffers(batch.column("text"))
        whole = np.empty(len(rows), np.bool_)
        room = len(rows) + np.count_nonzero(covered[token:] & ~np.roll(covered, 1)[token:])
        found_K3 = np.empty((room + 1, 3), np.int64)
        found, token = cuts_of(data, offsets, config.unit == "bytes", covered, token, whole, found_K3)
        found_K3 = found_K3[:found][~whole[found_K3[:found, 0]]]
        cuts.append(np.column_stack((rows[found_K3[:, 0]], found_K3[:, 1:])))
        gone.append(rows[whole])
    np.concatenate(cuts).tofile(folder / "cuts")
    np.concatenate(gone).tofile(folder / "gone")
    return {}


class Substring(Config):
    """Words are what stands between white space, compared byte by byte; a text in a script that writes none between words
    needs `unit: bytes`, which cuts whole characters and knows no words. The paper's tokens are those of GPT-2's BPE."""

    name: Literal["substring"] = "substring"
    min_tokens: int = Field(50, gt=0, description="the shortest span that is cut")
    unit: Literal["words", "bytes"] = "words"
    keep_first: bool = True
    reason: ClassVar[str] = "repeated_substring"

    def __call__(self, documents: Documents, folder: Path, log: Log) -> DedupResult:
        """Every row is the first of its own cluster: one that goes is held by others in pieces, maybe by no single one."""
        shards = documents.shards
        anchors = log.map(write_anchors, [(shard, self) for shard in shards], "substring_anchors")
        settled = settle_all(anchors, "substring_anchors_settled", log)
        tokens = [part.facts["tokens"] for part in anchors]
        before = [sum(tokens[:number]) for number in range(len(shards))]

        def pieces(parts: list[Part], settled: list[Path]) -> list[Piece]:
            return [
                Piece(shard, self, part.folder, settled, number, tokens[number], before[number])
                for number, (shard, part) in enumerate(zip(shards, parts, strict=True))
            ]

        windows = log.map(write_windows, pieces(anchors, settled), "substring_windows")
        settled = settle_all(windows, "substring_windows_settled", log)
        parts = log.map(write_cuts, pieces(windows, settled), "substring_cuts")
        keep = documents.alive.copy()
        for part in parts:
            keep[mapped_column(part.folder, "gone", np.int64)] = False
        cuts = np.concatenate(
            [NO_CUTS, *(mapped_column(part.folder, "cuts", np.int64).reshape(-1, 3) for part in parts)]
        )
        return DedupResult(np.arange(len(keep)), keep, cuts)
