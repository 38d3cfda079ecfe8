"""Looks for no duplicates: what fills a slot that is off."""

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from lm.config import Config
from tasks.core.log import Log
from tasks.dedup.documents import DedupResult, Documents


class KeepAll(Config):
    name: Literal["keep_all"] = "keep_all"
    reason: ClassVar[str] = "none"

    def __call__(self, documents: Documents, folder: Path, log: Log) -> DedupResult:
        return DedupResult(np.arange(len(documents.alive)), documents.alive.copy())
