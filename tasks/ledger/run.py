"""One run's tables in DuckDB, by name. They are what the stages wrote: nothing is copied, and nothing kept beside them."""

import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq

from lm.config import ConfigError
from lm.tokenizer import Tokenizer
from tasks.core.process import memory_budget, threads
from tasks.core.tables import shard_paths

# Where each table is below data/, and its columns, which it has also where no stage has written it.
TABLES = {
    "plan": (("curriculum/plan",), 'step int, sequence int, document int, "offset" int, length int'),
    "documents": (
        ("tokenize/documents",),
        "id text, source text, split text, start bigint, length bigint, bytes bigint",
    ),
    "ingested": (("ingest/documents",), "id text, source text, text text"),
    "deduplicated": (("dedup/documents",), "id text, source text, text text"),
    "filtered": (("filter/documents",), "id text, source text, text text"),
    "sources": (("ingest/sources",), "source text, licence text"),
    "quarantine": (("ingest/quarantine",), 'source text, file text, "row" bigint, reason text, excerpt text'),
    "clusters": (("dedup/clusters",), "id text, cluster text"),
    "dropped": (("dedup/dropped", "filter/dropped"), "id text, source text, reason text, text text"),
}
AGAIN = "make both anew: make pipeline FORCE=1"


class Run:
    """The tables as views of `db`, each with a column `number`, that of its row, and `stage`, who wrote it.

    data: the folder data/ of the run. What does not fit into memory goes to a folder of its own, which ends with the object.
    Raises ConfigError where tokenize has left no documents.
    """

    def __init__(self, data: Path) -> None:
        self.data = data
        self.db = duckdb.connect()
        self.db.execute(f"SET memory_limit = '{memory_budget() >> 20}MB'; SET threads = {threads()}")
        self._spilled = tempfile.TemporaryDirectory(prefix="tokenmill-ledger-")
        self.db.execute(f"SET temp_directory = '{self._spilled.name}'")
        self.absent = [name for name in TABLES if not self._view(name)]
        if "documents" in self.absent:
            raise ConfigError(f"{data / 'tokenize' / 'documents.parquet'}: no such table; has tokenize run?")

    def _view(self, name: str) -> bool:
        places, columns = TABLES[name]
        names = ", ".join(column.rsplit(" ", 1)[0] for column in columns.split(", "))
        typed = ", ".join("NULL::{1} AS {0}".format(*column.rsplit(" ", 1)) for column in columns.split(", "))
        parts = [f"SELECT 0::bigint AS number, '' AS stage, {typed} WHERE false"]
        for place in places:
            rows = 0
            for file in files_of(self.data / place):
                quoted = str(file).replace("'", "''")
                parts.append(
                    f"SELECT file_row_number + {rows} AS number, '{place.split('/')[0]}' AS stage, {names} "
                    f"FROM read_parquet('{quoted}', file_row_number = true, hive_partitioning = false)"
                )
                rows += pq.read_metadata(file).num_rows
        self.db.execute(f"CREATE VIEW {name} AS {' UNION ALL '.join(parts)}")
        return len(parts) > 1

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """The rows of a query as dictionaries; `?` in it are the values."""
        found = self.db.execute(query, values)
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.data / "tokenize")

    @cached_property
    def tokens(self) -> np.ndarray:
        """The tokens of all documents, in the file."""
        return np.load(self.data / "tokenize" / "tokens.npy", mmap_mode="r")

    @cached_property
    def prefixes(self) -> np.ndarray:
        """The tokens of prefixes and padding; the file is there where a plan has any."""
        return np.load(self.data / "curriculum" / "prefixes.npy")

    def texts(self, documents: list[int]) -> dict[int, str]:
        """What filter left of the documents with these rows; reads the row groups that hold them and no others."""
        wanted, found, row = np.unique(np.array(documents, dtype=np.int64)), dict[int, str](), 0
        for each in files_of(self.data / "filter" / "documents"):
            with pq.ParquetFile(each) as file:
                for group in range(file.num_row_groups):
                    end = row + file.metadata.row_group(group).num_rows
                    mine = wanted[(wanted >= row) & (wanted < end)]
                    if len(mine):
                        column = file.read_row_group(group, columns=["text"]).column("text")
                        found |= {int(number): column[int(number) - row].as_py() for number in mine}
                    row = end
        if len(found) < len(wanted):
            raise ConfigError(
                f"{self.data / 'filter' / 'documents'}: has {row} documents, and the plan asks for number {wanted[-1]}; {AGAIN}"
            )
        return found


def files_of(path: Path) -> list[Path]:
    """The files of a table at this place, a folder or one file of that name; none where there is neither."""
    for place in (path, path.with_name(f"{path.name}.parquet")):
        if place.exists() and (place.is_file() or any(place.glob("*.parquet"))):
            return shard_paths(place)
    return []
