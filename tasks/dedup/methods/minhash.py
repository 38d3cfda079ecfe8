"""Near-duplicates by MinHash and banding (Broder 1997; banding as in FineWeb, arXiv:2406.17557), each one verified.

Two documents fall into one cluster when they share a band of their signatures and the exact Jaccard similarity of their
shingle sets reaches the threshold: banding alone takes in pairs well below it. Clusters are transitive.
Letters: N rows of the table, C candidates (documents that share a band with another), B bands.
"""

import shutil
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from lm.config import Config
from tasks.core.log import Log
from tasks.core.parts import LEAST, Part
from tasks.core.process import memory_budget
from tasks.dedup.documents import DedupResult, Documents
from tasks.dedup.engine import memo
from tasks.dedup.engine.equal_keys import groups
from tasks.dedup.engine.signing import Shingling, Signing, collect_sets, sign

# Above this many members, a bucket's documents are compared with its first and with their neighbours only, not each with
# each: a thousand copies of one page must not cost half a million comparisons.
ALL_PAIRS_UP_TO = 40


class Minhash(Config):
    """Near-duplicates by MinHash and bands. In 18 bands of 6 rows a pair of similarity 0.8 becomes a candidate with probability
    0.996, of 0.7 with 0.89, of 0.5 with 0.25. FineWeb's 14 of 8 have 0.92, 0.56 and 0.05 for as many permutations: unverified,
    they must let few pairs in."""

    name: Literal["minhash"] = "minhash"
    shingles: Literal["words", "characters"] = "words"
    shingle_words: int = Field(5, gt=0, description="words of a shingle, or its characters where shingles says so")
    bands: int = Field(18, gt=0)
    rows_per_band: int = Field(6, gt=0)
    verify: bool = Field(
        True, description="compare the shingle sets of candidates; else every candidate is a duplicate"
    )
    threshold: float = Field(
        0.7, gt=0, le=1, description="Jaccard similarity of shingle sets from which two are duplicates"
    )
    reason: ClassVar[str] = "near_duplicate"

    def __call__(self, documents: Documents, folder: Path, log: Log) -> DedupResult:
        from tasks.dedup.engine.compiled_clusters import roots, unite_groups

        known = log.memo / f"{folder.name}.npy" if log.memo else None
        signing = Signing(self._shingling(), self.bands, self.rows_per_band, known)
        parts = log.map(sign, [(shard, signing) for shard in documents.shards], f"{folder.name}_keys", least=LEAST)
        if known:
            memo.save(known, parts, self.bands)
            made = sum(part.facts["made"] for part in parts)
            log.fact(signatures_made=made, signatures_known=sum(part.facts["documents"] for part in parts) - made)
        keys = [np.asarray(np.load(part.folder / "keys.npy", mmap_mode="r")) for part in parts]
        rows = [shard.first + np.flatnonzero(shard.alive) for shard in documents.shards]
        buckets = save_buckets(keys, rows, folder / "buckets")
        first_N = np.arange(len(documents.alive))
        if self.verify:
            self._unite_similar(documents, buckets, first_N, folder, log)
        else:
            for bucket in buckets:
                unite_groups(*load(bucket), first_N)
        roots(first_N)
        return DedupResult(first_N, documents.alive & (first_N == np.arange(len(first_N))))

    def _shingling(self) -> Shingling:
        return Shingling(self.shingles == "characters", self.shingle_words)

    def _unite_similar(
        self, documents: Documents, buckets: list[Path], first_N: np.ndarray, folder: Path, log: Log
    ) -> None:
        """Hang candidates that are similar below the first of them."""
        from tasks.dedup.engine.compiled_clusters import unite_similar

        is_candidate = np.zeros(len(first_N), dtype=bool)
        for bucket in buckets:
            is_candidate[load(bucket)[0]] = True
        shards = Documents(documents.table, is_candidate).shards
        parts = log.map(
            collect_sets, [(shard, self._shingling()) for shard in shards], f"{folder.name}_sets", least=LEAST
        )
        sets, begins_C = join_sets(parts, folder / "sets.bin")
        places_N = np.cumsum(is_candidate) - 1
        compared = 0
        for number, bucket in enumerate(buckets):
            compared += unite_similar(*load(bucket), first_N, sets, places_N, begins_C, self.threshold, ALL_PAIRS_UP_TO)
            log.progress(number + 1, len(buckets), "bucket file")
        log.fact(candidates=int(is_candidate.sum()), pairs_compared=compared)


def save_buckets(keys: list[np.ndarray], rows: list[np.ndarray], folder: Path) -> list[Path]:
    """Files of (rows, starts) as of `groups`: the documents that share a band, band after band.

    keys: B x n of each shard, mapped into memory; rows: n of each.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    files: list[Path] = []
    for band in range(len(keys[0])):
        for rows_C, starts in groups([part[band] for part in keys], rows, memory_budget() // 4):
            files.append(folder / f"{len(files):05}.npz")
            np.savez(files[-1], rows=rows_C, starts=starts)
    return files


def load(bucket: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(bucket) as found:
        return found["rows"], found["starts"]


def join_sets(parts: list[Part], path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(all sets, mapped into memory from one file; C + 1 places where each begins)."""
    with path.open("wb") as file:
        for part in parts:
            with (part.folder / "sets.bin").open("rb") as piece:
                shutil.copyfileobj(piece, file, 1 << 20)
    sizes = np.concatenate([np.load(part.folder / "sizes.npy") for part in parts])
    begins_C = np.concatenate(([0], np.cumsum(sizes)))
    empty = not begins_C[-1]
    return np.zeros(1, np.uint64) if empty else np.asarray(np.memmap(path, dtype=np.uint64, mode="r")), begins_C
