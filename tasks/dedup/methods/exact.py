"""Exact duplicates: the same text but for case, white space and Unicode form."""

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from lm.config import Config
from tasks.core.log import Log
from tasks.core.parts import LEAST, Facts
from tasks.core.process import memory_budget
from tasks.dedup.documents import DedupResult, Documents, Shard
from tasks.dedup.engine.code_points import digests_of
from tasks.dedup.engine.equal_keys import equal_runs, groups
from tasks.dedup.engine.normal_form import all_normalised
from tasks.dedup.engine.row_groups import over_texts


def digest_shard(shard: Shard, folder: Path) -> Facts:
    """digests.npy: 2 x n halves of the 128-bit digests of the documents that are left."""

    def work(texts: pa.LargeStringArray) -> np.ndarray:
        return digests_of(all_normalised(texts))

    np.save(folder / "digests.npy", np.concatenate([np.empty((2, 0), np.uint64), *over_texts(shard, work)], axis=1))
    return {}


class Exact(Config):
    name: Literal["exact"] = "exact"
    reason: ClassVar[str] = "exact_duplicate"

    def __call__(self, documents: Documents, folder: Path, log: Log) -> DedupResult:
        parts = log.map(digest_shard, documents.shards, f"{folder.name}_digests", least=LEAST)
        digests = [np.asarray(np.load(part.folder / "digests.npy", mmap_mode="r")) for part in parts]
        rows = [shard.first + np.flatnonzero(shard.alive) for shard in documents.shards]
        low_N = np.zeros(len(documents.alive), dtype=np.uint64)
        for numbers, digest in zip(rows, digests, strict=True):
            low_N[numbers] = digest[1]
        first_N = np.arange(len(documents.alive))
        for found, starts in groups([digest[0] for digest in digests], rows, memory_budget() // 4):
            group = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
            equal, begins = equal_runs(found, low_N[found], group)
            first_N[equal] = np.repeat(equal[begins[:-1]], np.diff(begins))
        return DedupResult(first_N, documents.alive & (first_N == np.arange(len(first_N))))
