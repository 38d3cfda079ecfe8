"""D4 (Tirumala et al. 2023, arXiv:2308.12284): SemDeDup (Abbas et al. 2023, arXiv:2303.09540), then the prototypes go.

Documents are embedded and clustered; of a pair within a cluster whose cosine is above 1 - epsilon the later one goes. What
is left is clustered anew, and the documents nearest to their centroids, the prototypes, go until `keep_fraction` is left.
Differences: SemDeDup keeps the document farthest from its centroid, here the first of the corpus stays; one whose near one
is gone itself goes as well, as there. Pairs across clusters are not looked at. k-means is fitted on the first `fit_documents`.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from math import isqrt
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from lm.config import Config
from tasks.core.log import Log
from tasks.core.process import threads
from tasks.dedup.documents import DedupResult, Documents
from tasks.dedup.engine.hidden_states import HiddenStates
from tasks.dedup.engine.k_means import assign, k_means
from tasks.dedup.engine.tfidf_svd import TfidfSvd

PAIRS_BLOCK = 4096


def earliest_similar(points: np.ndarray, rows_M: np.ndarray, threshold: float) -> np.ndarray:
    """For each of M rows of a cluster, ascending, the first row before it whose cosine is above the threshold, or itself."""
    from tasks.dedup.engine.compiled_vectors import first_similar

    found_M = np.full(len(rows_M), -1, dtype=np.int64)
    for begin in range(0, len(rows_M), PAIRS_BLOCK):
        mine = slice(begin, begin + PAIRS_BLOCK)
        points_BK, found_B = points[rows_M[mine]], found_M[mine]
        for first in range(0, begin + 1, PAIRS_BLOCK):
            earlier_KE = np.ascontiguousarray(points[rows_M[first : first + PAIRS_BLOCK]].T)
            before_B = np.minimum(np.arange(begin, begin + len(points_BK)) - first, earlier_KE.shape[1])
            new_B = np.where(found_B < 0, -1, 0)
            first_similar(points_BK, earlier_KE, before_B, np.float32(threshold), new_B)
            fresh = (found_B < 0) & (new_B >= 0)
            found_B[fresh] = new_B[fresh] + first
    return np.where(found_M < 0, rows_M, rows_M[found_M])


def members(labels_N: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of each cluster, ascending."""
    order = np.argsort(labels_N, kind="stable")
    order = order[np.searchsorted(labels_N[order], 0) :]
    if len(order):
        yield from np.split(order, np.flatnonzero(np.diff(labels_N[order])) + 1)


def duplicates(points: np.ndarray, labels_N: np.ndarray, epsilon: float, log: Log) -> np.ndarray:
    """N rows: the first document of each one's group; groups are transitive."""
    first_N = np.arange(len(labels_N))
    groups = [rows for rows in members(labels_N) if len(rows) > 1]
    with ThreadPoolExecutor(threads()) as pool:
        similar = pool.map(lambda rows: earliest_similar(points, rows, 1 - epsilon), groups)
        for done, (rows, before) in enumerate(zip(groups, similar, strict=True), start=1):
            first_N[rows] = before
            log.progress(done, len(groups), "cluster")
    while not np.array_equal(first_N[first_N], first_N):
        first_N = first_N[first_N]
    return first_N


def prototypes(labels_N: np.ndarray, cosines_N: np.ndarray, keep_fraction: float) -> np.ndarray:
    """The rows that go, so that round(keep_fraction N) stay: those nearest to their centroids, the first of equals first.
    A row without a cluster never goes."""
    gone = len(labels_N) - round(keep_fraction * len(labels_N))
    order = np.lexsort((-cosines_N, labels_N < 0))
    return order[: min(gone, int((labels_N >= 0).sum()))]


class Semantic(Config):
    name: Literal["semantic"] = "semantic"
    embedding: TfidfSvd | HiddenStates = Field(TfidfSvd(), discriminator="name")
    clusters: int = Field(0, ge=0, description="0: the square root of the number of documents; the paper has 11,000")
    iterations: int = Field(20, gt=0, description="of k-means")
    fit_documents: int = Field(262144, gt=0, description="k-means is fitted on the first so many")
    epsilon: float = Field(
        0.05, gt=0, lt=2, description="a pair is one of duplicates when its cosine is above 1 - epsilon"
    )
    keep_fraction: float = Field(0.8, gt=0, le=1, description="of what the first step leaves; 1: no prototype goes")
    reason: ClassVar[str] = "semantic_prototype"

    @property
    def reads(self) -> list[str]:
        return [self.embedding.folder] if isinstance(self.embedding, HiddenStates) else []

    def clustered(self, points: np.ndarray, rows_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(label, cosine to its centroid) of each row."""
        clusters = self.clusters or max(1, isqrt(len(rows_N)))
        return assign(points, rows_N, k_means(points, rows_N[: self.fit_documents], clusters, self.iterations))

    def __call__(self, documents: Documents, folder: Path, log: Log) -> DedupResult:
        """Duplicates are in the cluster of their first; a prototype goes as the first of its own."""
        rows = np.flatnonzero(documents.alive)
        points = self.embedding(documents, folder / "embedding", log)
        labels, _ = self.clustered(points, np.arange(len(rows)))
        first = duplicates(points, labels, self.epsilon, log)
        first_N, keep_N = np.arange(len(documents.alive)), documents.alive.copy()
        first_N[rows] = rows[first]
        keep_N[rows] = first == np.arange(len(rows))
        if self.keep_fraction < 1:
            left = np.flatnonzero(keep_N[rows])
            keep_N[rows[left[prototypes(*self.clustered(points, left), self.keep_fraction)]]] = False
        return DedupResult(first_N, keep_N)
