"""Dedup: keeps the first document of every cluster of duplicates, and what became of the others as data."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import model_validator

from lm.config import Config, choice
from tasks.core.config import Checkpoint, References, check_watched
from tasks.core.log import Log
from tasks.dedup import methods
from tasks.dedup.decisions import Decisions
from tasks.dedup.documents import Documents
from tasks.dedup.methods import KeepAll
from tasks.dedup.output import write_output

Method: Any = choice(methods)
SLOTS = ("against", "exact", "near", "semantic", "substring")


class DedupConfig(Config):
    """Questions in the order in which they are asked, each of what the earlier ones left; any may be keep_all."""

    against: Method
    exact: Method
    near: Method
    semantic: Method
    substring: Method
    references: References = References()
    checkpoint: Checkpoint = Checkpoint(folder="data/checkpoint")

    @model_validator(mode="after")
    def _methods_differ(self) -> "DedupConfig":
        used = [method.name for _, method in self.slots() if not isinstance(method, KeepAll)]
        if len(set(used)) < len(used):
            raise ValueError(f"a method may stand in one slot alone ({', '.join(used)}): put keep_all into the others")
        for slot, method in self.slots():
            check_watched(slot, getattr(method, "reads", []), [self.references.folder, self.checkpoint.folder])
        return self

    def slots(self) -> Iterator[tuple[str, Any]]:
        """Names and methods of the slots, in this order."""
        for slot in SLOTS:
            yield slot, getattr(self, slot)


def run(config: DedupConfig, data: Path, log: Log) -> dict[str, float]:
    """data/ingest -> data/dedup: documents/, clusters/ and dropped/, each with the shards of data/ingest/documents."""
    table = data / "ingest" / "documents"
    decisions = Decisions.for_table(table)
    for slot, method in config.slots():
        folder = log.parts / f"{slot}_files"
        folder.mkdir(parents=True, exist_ok=True)
        decisions.add(slot, method.reason, method(Documents(table, decisions.keep_N), folder, log))
    written = write_output(table, decisions, data / "dedup", log)
    sizes = np.bincount(decisions.cluster_N)
    return {
        "documents": len(decisions.keep_N),
        "kept": written["kept"],
        "dropped": len(decisions.keep_N) - written["kept"],
        **{f"dropped_{slot}": written[slot] for slot, _ in config.slots()},
        "dropped_emptied": written["emptied"],
        "bytes": written["bytes"],
        "bytes_cut": written["bytes_cut"],
        "clusters": int((sizes > 1).sum()),
        "largest_cluster": int(sizes.max(initial=0)),
    }
