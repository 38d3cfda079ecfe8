"""What a rule gets and gives: a batch of documents, and for each what speaks against it, its new text, its scores."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from tasks.core.log import Log


@dataclass(frozen=True)
class Batch:
    """N documents, rows `first`, `first + 1`, ... of shard number `shard`: their sources, texts and meta."""

    shard: int
    first: int
    sources: pa.StringArray
    texts: pa.LargeStringArray
    meta: pa.StringArray

    @cached_property
    def _kept(self) -> dict[str, Any]:
        return {}

    def cached(self, name: str, make: Callable[[pa.LargeStringArray], Any]) -> Any:
        """make(texts), made once for all the rules that ask for it under this name: one pass over the text serves them all."""
        if name not in self._kept:
            self._kept[name] = make(self.texts)
        return self._kept[name]


@dataclass(frozen=True)
class Judgement:
    """reasons: N strings, None for what stays. texts: N new texts where the rule changes them, for the rules after it.
    scores: N float32 a name, kept beside the documents as `score_<name>`; the same names for every batch, one of no documents
    included. counts: N int64 a name, of what the rule did to each document; the stage adds up those of documents that stay."""

    reasons: np.ndarray
    texts: pa.LargeStringArray | None = None
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    counts: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """What a rule may use before the first batch: the table of documents, the problems that later stages use, a folder of its
    own, the log, the model in `checkpoint.folder`."""

    documents: Path
    problems: Any
    folder: Path
    log: Log
    checkpoint: Path | None = None


class Rule(Protocol):
    """A method of the room. `sources`: it judges the documents of these alone; all when None."""

    sources: list[str] | None

    def prepare(self, setting: Setting) -> None:
        """Write what all shards need into setting.folder as files, before any shard, in the stage's own process. Once; again
        where a kill came in between, with what it had left in the folder."""

    def judge(self, batch: Batch, folder: Path) -> Judgement:
        """Judgement of the documents of a batch, in any process; `folder` is that of prepare. Depends on each document alone.
        Those that an earlier rule drops are judged too, so that rows stay in their places; what is said of them counts
        nothing."""
