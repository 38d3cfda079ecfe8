"""Band keys of the documents of a shard, and shingle sets of those that are candidates: what MinHash does on any worker.

Letters: N documents of a shard, B bands, P permutations, C candidates.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.core.parts import Facts
from tasks.core.texts import text_buffers
from tasks.dedup.documents import Shard
from tasks.dedup.engine.code_points import digests_of, folded
from tasks.dedup.engine.memo import Memo
from tasks.dedup.engine.row_groups import over_texts

# (B x N keys, 2 x N digests, how many were computed)
Signed = tuple[np.ndarray, np.ndarray, int]


@dataclass(frozen=True)
class Shingling:
    """What a shingle is: `size` consecutive words, or characters."""

    by_character: bool
    size: int

    def sets(self, texts: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
        """(sorted unique 64-bit shingles of one text after another, how many each has)."""
        from tasks.dedup.engine.compiled_shingles import shingle_sets

        sizes_N = np.zeros(len(texts), dtype=np.int64)
        return shingle_sets(*text_buffers(texts), folded(), self.by_character, self.size, sizes_N), sizes_N

    def minima(self, texts: pa.LargeStringArray, permutations: int) -> np.ndarray:
        """N x P minima of the shingles under P hash functions a x + b modulo 2^32, a odd (multiply-shift)."""
        from tasks.dedup.engine.compiled_shingles import signatures

        generator = np.random.Generator(np.random.Philox(key=112))
        multipliers, offsets = generator.integers(0, 2**32, size=(2, permutations), dtype=np.uint32)
        return signatures(
            *text_buffers(texts), folded(), self.by_character, self.size, multipliers | np.uint32(1), offsets
        )


@dataclass(frozen=True)
class Signing:
    """Work over shards: the keys of `bands` bands of `rows` permutations of every document that is left, as keys.npy (B x N).

    Where there is a memo, documents that it knows are not computed again, and digests.npy (2 x N) tells which texts these are.
    """

    shingling: Shingling
    bands: int
    rows: int
    memo: Path | None

    def keys(self, texts: pa.LargeStringArray) -> np.ndarray:
        """Band keys of N texts: B x N numbers of 64 bits."""
        from tasks.dedup.engine.compiled_shingles import band_keys

        keys_BN = np.empty((self.bands, len(texts)), dtype=np.uint64)
        band_keys(self.shingling.minima(texts, self.bands * self.rows), keys_BN)
        return keys_BN

    def known_keys(self, texts: pa.LargeStringArray, memo: Memo) -> Signed:
        """Band keys of N texts, made only of those that the memo does not know; their digests, and how many were made."""
        digests, keys_BN = digests_of(texts), np.empty((self.bands, len(texts)), dtype=np.uint64)
        new = np.flatnonzero(~memo.look_up(digests, keys_BN))
        if len(new):
            keys_BN[:, new] = self.keys(texts if len(new) == len(texts) else texts.take(pa.array(new)))
        return keys_BN, digests, len(new)


def sign(item: tuple[Shard, Signing], folder: Path) -> Facts:
    """One shard. Facts: how many documents it has, and how many of them were computed."""
    shard, signing = item
    memo = Memo.load(signing.memo, signing.bands) if signing.memo else None

    def work(texts: pa.LargeStringArray) -> Signed:
        return (
            signing.known_keys(texts, memo) if memo else (signing.keys(texts), np.empty((2, 0), np.uint64), len(texts))
        )

    nothing = (np.empty((signing.bands, 0), np.uint64), np.empty((2, 0), np.uint64), 0)
    keys, digests, made = zip(nothing, *over_texts(shard, work), strict=True)
    np.save(folder / "keys.npy", np.concatenate(keys, axis=1))
    if memo:
        np.save(folder / "digests.npy", np.concatenate(digests, axis=1))
    return {"documents": int(shard.alive.sum()), "made": sum(made)}


def collect_sets(item: tuple[Shard, Shingling], folder: Path) -> Facts:
    """The shingle sets of the documents of a shard that are left, as sets.bin (numbers of 64 bits) and sizes.npy."""
    shard, shingling = item
    sizes = [np.zeros(0, dtype=np.int64)]
    with (folder / "sets.bin").open("wb") as file:
        for sets, sizes_N in over_texts(shard, shingling.sets):
            file.write(sets.data)
            sizes.append(sizes_N)
    np.save(folder / "sizes.npy", np.concatenate(sizes))
    return {}
