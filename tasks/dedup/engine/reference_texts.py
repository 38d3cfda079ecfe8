"""The texts of a reference set: a file or a folder of Parquet and JSON lines."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from lm.config import ConfigError
from tasks.core.arrow_text import as_text, is_text
from tasks.core.hashed import hashed, read_ignored

ENDINGS = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst")
BYTES_AT_ONCE = 8 << 20


def files_of(folder: Path) -> list[Path]:
    """The files of a set, sorted; others, and hidden ones, are left alone. Raises ConfigError when there is none."""
    if folder.is_file():
        found = [folder]
    else:
        found = [path for path in hashed(folder, read_ignored()).files if not path.name.startswith(".")]
    found = [path for path in found if path.name.endswith(ENDINGS)]
    if not found:
        what = "has no file that ends with" if folder.exists() else "does not exist; it is to hold files that end with"
        raise ConfigError(f"dedup.against.folder: {folder} {what} {', '.join(ENDINGS)}; put the reference set there")
    return found


def texts_of(path: Path, field: str) -> Iterator[pa.LargeStringArray]:
    """The texts of one file, some at a time; null is no text. Raises ConfigError naming file, line or column."""
    yield from _of_parquet(path, field) if path.name.endswith(".parquet") else _of_lines(path, field)


def _of_parquet(path: Path, field: str) -> Iterator[pa.LargeStringArray]:
    try:
        with pq.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                names = ", ".join(file.schema_arrow.names)
                raise ConfigError(f"dedup.against.text_field: {path} has no column {field!r}; it has {names}")
            kind = file.schema_arrow.field(field).type
            if not is_text(kind):
                raise ConfigError(f"dedup.against.text_field: {path}: column {field!r} is {kind}; name one of text")
            for batch in file.iter_batches(1024, columns=[field]):
                yield as_text(batch.column(0), pa.large_string()).drop_null()
    except (pa.ArrowInvalid, OSError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"dedup.against.folder: {path}: not a Parquet file that can be read: {reason}") from None


def _opened(path: Path) -> IO[str]:
    if path.name.endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8")
    if path.name.endswith(".zst"):
        return zstandard.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def _of_lines(path: Path, field: str) -> Iterator[pa.LargeStringArray]:
    waiting: list[str] = []
    size = number = 0
    try:
        with _opened(path) as lines:
            for number, line in enumerate(lines, start=1):
                text = _text(line, field, f"{path}: line {number}") if line.strip() else None
                if text is not None:
                    waiting.append(text)
                    size += len(text)
                if size > BYTES_AT_ONCE:
                    yield pa.array(waiting, pa.large_string())
                    waiting, size = [], 0
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, zstandard.ZstdError) as error:
        raise ConfigError(f"dedup.against.folder: {path}: after line {number}: cannot be read: {error}") from None
    yield pa.array(waiting, pa.large_string())


def _text(line: str, field: str, where: str) -> str | None:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ConfigError(f"dedup.against.folder: {where}: not JSON: {error}") from None
    if not isinstance(row, dict) or field not in row:
        raise ConfigError(f"dedup.against.text_field: {where}: has no {field!r}; name the field that holds the text")
    if row[field] is not None and not isinstance(row[field], str):
        raise ConfigError(f"dedup.against.text_field: {where}: {field!r} is no text; name the field that holds it")
    # a lone surrogate is no character: it becomes a question mark, which no real text would match by it
    return None if row[field] is None else row[field].encode("utf-8", "replace").decode()
