"""Tables of documents for the tests of dedup, and what a method or the stage makes of them."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from lm.config import Config
from tasks.core.log import Log
from tasks.core.tables import shard_path, write_table
from tasks.dedup.documents import DedupResult, Documents
from tasks.dedup.stage import DedupConfig, run

SLOTS = ("against", "exact", "near", "semantic", "substring")
Rows = list[tuple[str, str]]


def write_rows(table: Path, shards: list[Rows]) -> Path:
    """(id, text) rows as a table."""
    for number, rows in enumerate(shards):
        columns = {
            "id": pa.array([name for name, _ in rows], pa.string()),
            "source": pa.array(["s"] * len(rows), pa.string()),
            "text": pa.array([text for _, text in rows], pa.large_string()),
            "meta": pa.array(["{}"] * len(rows), pa.string()),
        }
        write_table(shard_path(table, number), pa.table(columns))
    return table


def rows_of(texts: list[str]) -> Rows:
    return [(f"d{number:04}", text) for number, text in enumerate(texts)]


def recut(rows: Rows, *edges: int) -> list[Rows]:
    """The same rows in other shards."""
    return [rows[a:b] for a, b in zip((0, *edges), (*edges, len(rows)), strict=True)]


def found_by(method: Any, shards: list[Rows], alive: np.ndarray | None = None, log: Log | None = None) -> DedupResult:
    """What a method says of a table."""
    with TemporaryDirectory() as name:
        table, folder = write_rows(Path(name) / "documents", shards), Path(name) / "near_files"
        folder.mkdir()
        left = np.ones(sum(map(len, shards)), dtype=bool) if alive is None else alive
        return method(Documents(table, left), folder, log or Log())


def config_of(**methods: Config | dict) -> DedupConfig:
    """The slots given, the others off."""
    off = {"name": "keep_all"}
    values = {slot: methods.get(slot, off) for slot in SLOTS}
    return DedupConfig.model_validate({k: v.model_dump() if isinstance(v, Config) else v for k, v in values.items()})


def run_stage(folder: Path, shards: list[Rows], log: Log | None = None, **methods: Config | dict) -> tuple[dict, Path]:
    """The metrics and the output of the stage."""
    (folder / "dedup").mkdir(parents=True)
    write_rows(folder / "ingest" / "documents", shards)
    return run(config_of(**methods), folder, log or Log()), folder / "dedup"
