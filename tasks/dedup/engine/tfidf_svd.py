"""Embeddings without a model: hashed TF-IDF, projected onto its leading singular directions (LSA, Deerwester et al. 1990).

Words are hashed into F features and weigh (1 + ln count) (1 + ln((1 + n) / (1 + documents with it))); a document is a unit
vector of them. The K directions are found by randomised subspace iteration (Halko et al. 2011, arXiv:0909.4061, algorithm
4.4) on a sample, and whitened: each counts alike, else what all long texts share decides their cosines (of 3,600 prose
documents, a tenth had an unrelated one above 0.89, and 0.76 when whitened; K = 128). Cosines do not depend on the axes
within that subspace, so it is not turned into singular vectors.
Letters: N documents, F features, K dimensions.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from lm.config import Config
from tasks.core.log import Log
from tasks.core.parts import Facts
from tasks.core.texts import text_buffers
from tasks.dedup.documents import Documents, Shard
from tasks.dedup.engine.code_points import folded
from tasks.dedup.engine.row_groups import over_texts

# Fewer documents a direction than this are not whitened: of as many documents as directions, no two would be alike.
WHITENED_FROM = 8

Terms = tuple[np.ndarray, np.ndarray, np.ndarray]


def terms_of(texts: pa.LargeStringArray, features: int) -> Terms:
    """(features of one text after another, how often each occurs there, where each text's end)."""
    from tasks.dedup.engine.compiled_vectors import count_terms

    data, edges = text_buffers(texts)
    room = int(np.minimum(np.diff(edges) // 2 + 1, features).sum())
    terms, counts = np.empty(room, dtype=np.int64), np.empty(room, dtype=np.int64)
    ends_N = np.empty(len(texts), dtype=np.int64)
    filled = count_terms(data, edges, folded(), features, terms, counts, ends_N)
    return terms[:filled], counts[:filled], ends_N


def sample(documents: Documents, size: int) -> Iterator[pa.LargeStringArray]:
    """The first `size` documents that are left. Their order is that of a hash of their ids, so they are a random draw."""
    for _, batch in documents.batches(["text"]):
        yield batch.column("text")[:size]
        size -= batch.num_rows
        if size <= 0:
            return


def fit(documents: Documents, config: "TfidfSvd", log: Log) -> tuple[np.ndarray, np.ndarray]:
    """(idf_F, basis_FK onto which documents are projected; columns of zeros where the sample has fewer directions)."""
    from tasks.dedup.engine.compiled_vectors import orthonormalise, project, whiten

    seen_F, size = np.zeros(config.features, dtype=np.int64), 0
    for texts in sample(documents, config.fit_documents):
        seen_F += np.bincount(terms_of(texts, config.features)[0], minlength=config.features)
        size += len(texts)
    idf_F = 1 + np.log((1 + size) / (1 + seen_F))
    generator = np.random.Generator(np.random.Philox(key=config.dimensions))
    basis_KF = generator.standard_normal((config.features, config.dimensions)).T
    for turn in range(1, config.iterations + 1):
        sums_FK = np.zeros((config.features, config.dimensions))
        basis_FK = np.ascontiguousarray(basis_KF.T, dtype=np.float32)
        for texts in sample(documents, config.fit_documents):
            out_NK = np.empty((len(texts), config.dimensions), dtype=np.float32)
            project(*terms_of(texts, config.features), idf_F, basis_FK, out_NK, sums_FK)
        sums_KF = np.ascontiguousarray(sums_FK.T)
        if turn == config.iterations and size >= WHITENED_FROM * config.dimensions:
            whiten(basis_KF, sums_KF, 1e-9)
        else:
            orthonormalise(sums_KF, 1e-6)
            basis_KF = sums_KF
        log.progress(turn, config.iterations, "iteration")
    return idf_F, np.ascontiguousarray(basis_KF.T, dtype=np.float32)


def unit(points_NK: np.ndarray) -> np.ndarray:
    """Rows of length 1; rows of zeros stay."""
    lengths = np.sqrt(np.einsum("nk,nk->n", points_NK, points_NK))[:, None]
    return np.divide(points_NK, lengths, out=np.zeros_like(points_NK), where=lengths > 0)


def embed(item: tuple[Shard, Path, int], folder: Path) -> Facts:
    """points.npy: n x K of the documents of a shard that are left."""
    from tasks.dedup.engine.compiled_vectors import project

    shard, fitted, features = item
    idf_F, basis_FK = np.load(fitted / "idf.npy"), np.load(fitted / "basis.npy")
    nothing = np.empty((0, basis_FK.shape[1]), dtype=np.float32)

    def work(texts: pa.LargeStringArray) -> np.ndarray:
        out_NK = np.empty((len(texts), basis_FK.shape[1]), dtype=np.float32)
        project(*terms_of(texts, features), idf_F, basis_FK, out_NK, np.empty((0, 0)))
        return unit(out_NK)

    np.save(folder / "points.npy", np.concatenate([nothing, *over_texts(shard, work)]))
    return {}


class TfidfSvd(Config):
    name: Literal["tfidf_svd"] = "tfidf_svd"
    dimensions: int = Field(128, gt=0, description="more tell documents better apart, and cost more")
    features: int = Field(32768, gt=0)
    iterations: int = Field(3, gt=1, description="of the subspace; each reads the sample once")
    fit_documents: int = Field(65536, gt=0, description="weights and directions are those of the first so many")

    def __call__(self, documents: Documents, folder: Path, log: Log) -> np.ndarray:
        """n x K float32 of the documents that are left, on disk: unit rows, and zeros for a text without known words."""
        idf_F, basis_FK = fit(documents, self, log)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "idf.npy", idf_F)
        np.save(folder / "basis.npy", basis_FK)
        parts = log.map(embed, [(shard, folder, self.features) for shard in documents.shards], "semantic_points")
        size = (int(documents.alive.sum()), self.dimensions)
        points_NK = np.lib.format.open_memmap(folder / "points.npy", mode="w+", dtype=np.float32, shape=size)
        row = 0
        for part in parts:
            mine = np.load(part.folder / "points.npy", mmap_mode="r")
            points_NK[row : row + len(mine)] = mine
            row += len(mine)
        return points_NK
