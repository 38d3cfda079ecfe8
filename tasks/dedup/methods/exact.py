"""Exact duplicates: the same text but for case, white space and Unicode form."""

import unicodedata
from hashlib import blake2b
from typing import ClassVar, Literal

import numpy as np

from lm.config import Config
from tasks.core.log import Log


def normalised(text: str) -> str:
    """NFC, lower case, every run of white space one space."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def first_of_equals(texts: list[str], log: Log) -> np.ndarray:
    """N rows: the first whose normalised text has the same 128-bit digest."""
    first: dict[bytes, int] = {}
    clusters = np.empty(len(texts), dtype=np.int64)
    for row, text in enumerate(texts):
        clusters[row] = first.setdefault(blake2b(normalised(text).encode(), digest_size=16).digest(), row)
        log.progress(row + 1, len(texts), "document")
    return clusters


class Exact(Config):
    name: Literal["exact"] = "exact"
    reason: ClassVar[str] = "exact_duplicate"

    def __call__(self, texts: list[str], log: Log) -> np.ndarray:
        return first_of_equals(texts, log)
