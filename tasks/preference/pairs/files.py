"""Pairs from files: JSON lines, gzipped or not, and Parquet, of `prompt`, `chosen` and `rejected`."""

import gzip
import json
import zlib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from lm.config import ConfigError
from tasks.core.hashed import hashed, read_ignored
from tasks.preference.pairs.base import EXCERPT, Given, Pair, Rejected, Source
from tasks.preference.pairs.rows import texts_of

ENDINGS = (".jsonl", ".jsonl.gz", ".parquet")
COLUMNS = ("prompt", "chosen", "rejected")


class Files(Source):
    """Pairs of the files whose names fit, in the order of names and rows; other columns are passed over."""

    name: Literal["files"] = "files"
    path: str = Field(
        "*", description=f"pattern of paths in preference.folder; read are those that end in {', '.join(ENDINGS)}"
    )

    def __call__(self, given: Given) -> Iterator[Pair | Rejected]:
        for path in self.listed(given.folder):
            for found in rows_of(path, path.relative_to(given.folder).as_posix()):
                if isinstance(found, Rejected):
                    yield found
                    continue
                where, row = found
                texts = texts_of(row)
                if isinstance(texts, str):
                    yield Rejected(where, texts, json.dumps(row, default=str)[:EXCERPT])
                    continue
                prompt, chosen, rejected = texts
                yield Pair(where, prompt, given.tokenizer.chat(prompt), given.encoded(chosen), given.encoded(rejected))

    def listed(self, folder: Path) -> list[Path]:
        """The files, of those that DVC watches. Raises ConfigError where there is none."""
        found = [
            path
            for path in hashed(folder, read_ignored()).files
            if path.name.endswith(ENDINGS) and fnmatchcase(path.relative_to(folder).as_posix(), self.path)
        ]
        if not found:
            raise ConfigError(
                f"preference.folder: {folder}: holds no file that fits {self.path!r} and ends in {', '.join(ENDINGS)}; put "
                "files of pairs there"
            )
        return found


def rows_of(path: Path, name: str) -> Iterator[tuple[str, Any] | Rejected]:
    """(`file:row`, row) of each row, counted from 1; and what cannot be read, a file that is broken from there on as one."""
    yield from parquet_rows(path, name) if name.endswith(".parquet") else json_rows(path, name)


def json_rows(path: Path, name: str) -> Iterator[tuple[str, Any] | Rejected]:
    """Rows of JSON lines; blank lines and a byte order mark are passed over."""
    number = 0
    with gzip.open(path) if name.endswith(".gz") else path.open("rb") as lines:
        while True:
            number += 1
            where = f"{name}:{number}"
            try:
                line = lines.readline()
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                yield Rejected(where, "unreadable", f"the gzip ends or is broken here: {error}")
                return
            if not line:
                return
            if not line.strip():
                continue
            try:
                yield where, json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError):
                yield Rejected(where, "not_json", line[:EXCERPT].decode(errors="replace"))


def parquet_rows(path: Path, name: str) -> Iterator[tuple[str, Any] | Rejected]:
    """Rows of a Parquet file, with those of the columns that it has."""
    number = 0
    try:
        with pq.ParquetFile(path) as opened:
            columns = [column for column in COLUMNS if column in opened.schema_arrow.names]
            for batch in opened.iter_batches(1024, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{name}:{number}", row
    except (pa.ArrowException, OSError, ValueError) as error:
        yield Rejected(f"{name}:{number + 1}", "unreadable", f"{type(error).__name__}: {error}"[:EXCERPT])
