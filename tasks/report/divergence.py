"""How far a model's expectations are from those of the model that it was made of: KL(model || parent) on held-out text.

K places, V vocabulary.
"""

from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from lm.paired import Difference, byte_differences

# As tasks/evaluate/distributions.py writes it
FILE = "distributions.parquet"


def normalised(logp_KV: np.ndarray) -> np.ndarray:
    """logp_KV in fp64 whose probabilities add up to 1: fp16 has rounded them."""
    wide_KV = logp_KV.astype(np.float64)
    return wide_KV - np.log(np.exp(wide_KV).sum(1, keepdims=True))


def kl(ours_KV: np.ndarray, theirs_KV: np.ndarray) -> np.ndarray:
    """kl_K, nats: sum over the vocabulary of p (log p - log q), p being ours."""
    return (np.exp(ours_KV) * (ours_KV - theirs_KV)).sum(1)


def divergence(ours: Path, theirs: Path) -> Difference | None:
    """The mean of KL(ours || theirs) over the places of both evaluations, given their folders, with the 95% interval of a
    bootstrap over documents, within their sources; None of fewer than ten documents, where either kept no distributions, or
    where places or vocabularies are others, as with another tokenizer."""
    paths = [folder / FILE for folder in (ours, theirs)]
    if not all(path.exists() for path in paths):
        return None
    return _told(*((path, path.stat().st_mtime_ns) for path in paths))


@lru_cache(maxsize=64)
def _told(ours: tuple[Path, int], theirs: tuple[Path, int]) -> Difference | None:
    mine, other = (pq.read_table(path).to_pydict() for path, _ in (ours, theirs))
    if any(mine[name] != other[name] for name in ("id", "place")) or not mine["id"]:
        return None
    both = [np.stack([np.frombuffer(row, "<f2") for row in each["logp"]]) for each in (mine, other)]
    if both[0].shape != both[1].shape:
        return None
    rows: dict[str, dict[str, Any]] = defaultdict(lambda: {"bytes": 0, "kl": 0.0, "none": 0.0})
    for document, source, nats in zip(mine["id"], mine["source"], kl(*map(normalised, both)), strict=True):
        row = rows[document]
        row |= {"id": document, "source": source}
        row["bytes"] += 1  # places take the place of bytes: the mean is over them
        row["kl"] += float(nats)
    return byte_differences(list(rows.values()), [("kl", "none")]).get(("kl", "none"))
