"""A against B: drop the documents of the corpus that a reference set holds, such as a corpus trained on before, or a test set.

B is a file or a folder of Parquet and JSON lines; it is read and never changed. `exact` drops a document whose normal form
is that of one of B (128-bit digests). `near` drops one of whose distinct shingles of `shingle_words` words, lower case, at
least the fraction `overlap` occurs anywhere in B (64-bit hashes); 13 words are those of GPT-3's overlap check
(arXiv:2005.14165, appendix C), which takes a single shared shingle for enough. A document of fewer words is one shingle,
and so equal to a whole document of B or not found. A text without words is only found by `exact`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from lm.config import Config, ConfigError
from tasks.core.log import Log
from tasks.core.parts import Facts
from tasks.core.texts import text_buffers
from tasks.dedup.documents import DedupResult, Documents, Shard
from tasks.dedup.engine.code_points import digests_of, folded
from tasks.dedup.engine.key_set import held_in, merge_all, write_runs
from tasks.dedup.engine.normal_form import all_normalised
from tasks.dedup.engine.reference_texts import files_of, texts_of
from tasks.dedup.engine.row_groups import over_texts


def shingles_of(texts: pa.LargeStringArray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(1 x S distinct shingles of one text after another, how many each of N texts has)."""
    from tasks.dedup.engine.compiled_shingles import shingle_sets

    sizes_N = np.zeros(len(texts), dtype=np.int64)
    return shingle_sets(*text_buffers(texts), folded(), False, size, sizes_N)[None], sizes_N


def fractions(held_S: np.ndarray, sizes_N: np.ndarray) -> np.ndarray:
    """N fractions of the shingles of each text that are held; 0 of a text that has none."""
    ends = np.cumsum(sizes_N)
    held = np.append(0, np.cumsum(held_S))
    return (held[ends] - held[ends - sizes_N]) / np.maximum(sizes_N, 1)


def reference_keys(item: tuple[Path, "Against"], folder: Path) -> Facts:
    """The keys of one file of B, and its number of texts."""
    path, config = item
    texts = 0

    def keys() -> Iterator[np.ndarray]:
        nonlocal texts
        for batch in texts_of(path, config.text_field):
            texts += len(batch)
            yield config.keys(batch)

    return {**write_runs(keys(), folder), "texts": texts}


def match(item: tuple[Shard, "Against", list[Path]], folder: Path) -> Facts:
    """found.npy: for each row of a shard that is left, whether B holds it."""
    shard, config, reference = item

    def work(texts: pa.LargeStringArray) -> np.ndarray:
        if config.match == "exact":
            return held_in(reference, config.keys(texts))
        shingles, sizes_N = shingles_of(texts, config.shingle_words)
        return (fractions(held_in(reference, shingles), sizes_N) >= config.overlap) & (sizes_N > 0)

    np.save(folder / "found.npy", np.concatenate([np.empty(0, dtype=bool), *over_texts(shard, work)]))
    return {}


class Against(Config):
    name: Literal["against"] = "against"
    folder: str = Field(description="a file or folder of .parquet, .jsonl, .jsonl.gz or .jsonl.zst")
    text_field: str = "text"
    match: Literal["exact", "near"] = "exact"
    shingle_words: int = Field(13, gt=0, description="of match near")
    overlap: float = Field(
        0.8, gt=0, le=1, description="of match near: fraction of a document's shingles from which it goes"
    )
    reason: ClassVar[str] = "found_in_b"

    @property
    def reads(self) -> list[str]:
        return [self.folder]

    def keys(self, texts: pa.LargeStringArray) -> np.ndarray:
        """C x n keys: two columns of digests, or one of shingles."""
        return digests_of(all_normalised(texts)) if self.match == "exact" else shingles_of(texts, self.shingle_words)[0]

    def __call__(self, documents: Documents, folder: Path, log: Log) -> DedupResult:
        """Every row is the first of its own cluster. Raises ConfigError for a B that is missing, empty or cannot be read."""
        files = files_of(Path(self.folder))
        parts = log.map(reference_keys, [(path, self) for path in files], "against_reference", "file")
        if not sum(part.facts["texts"] for part in parts):
            raise ConfigError(f"dedup.against.folder: {self.folder} holds no texts; choose keep_all, or put some there")
        reference = merge_all(parts, "against_keys", log)
        found = log.map(match, [(shard, self, reference) for shard in documents.shards], "against_matches")
        keep = documents.alive.copy()
        keep[keep] = ~np.concatenate([np.load(part.folder / "found.npy") for part in found])
        return DedupResult(np.arange(len(keep)), keep)
