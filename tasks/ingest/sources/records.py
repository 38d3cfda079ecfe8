"""What a source yields: records, and rows it could not use; and the reading of lines that no input can overwhelm."""

import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from tasks.core.config import ConfigError

EXCERPT = 200


@dataclass(frozen=True)
class Record:
    """A document as read. `id` is None where the row has none of its own; meta is JSON-able."""

    file: str
    row: int
    text: str
    id: str | None = None
    meta: dict[str, Any] | None = None


@dataclass(frozen=True)
class Rejected:
    """A row that cannot be used. row counts from 1; 0 stands for the whole file."""

    file: str
    row: int
    reason: str
    excerpt: str = ""


def matching(folder: Path, pattern: str, label: str) -> list[Path]:
    """The files that a glob relative to the folder names, sorted. Raises ConfigError when there is none."""
    if not folder.exists():
        raise ConfigError(f"ingest.folder: {folder}: no such folder (source {label})")
    paths = sorted(path for path in folder.glob(pattern) if path.is_file())
    if not paths:
        raise ConfigError(
            f"ingest.sources: {label}: no file matches {pattern!r} in {folder}: put files there, or name the folder that has "
            'them, as in SET="ingest.folder=/data/text"'
        )
    return paths


def excerpt_of(value: object) -> str:
    """The first 200 characters of anything, printable."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:EXCERPT])


def check_text(
    file: str, row: int, value: object, id_: object = None, meta: dict[str, Any] | None = None
) -> Record | Rejected:
    """The record of a row's fields, or why there is none."""
    if value is None:
        return Rejected(file, row, "null_text")
    if not isinstance(value, str):
        return Rejected(file, row, "text_is_not_a_string", excerpt_of(value))
    if not value.strip():
        return Rejected(file, row, "empty_text", excerpt_of(value))
    if "\0" in value:
        return Rejected(file, row, "nul_bytes", excerpt_of(value))
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can spell lone surrogates, which no file can hold
        return Rejected(file, row, "invalid_unicode", excerpt_of(value.encode("utf-8", "replace")))
    return Record(file, row, value, None if id_ is None else str(id_), meta)


def open_decompressed(path: Path) -> BinaryIO:
    """The bytes of a file; .gz and .zst are decompressed on the way."""
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".zst":
        return io.BufferedReader(zstandard.open(path, "rb"))  # type: ignore[arg-type]
    return path.open("rb")


def read_lines(path: Path, name: str, max_line_bytes: int) -> Iterator[tuple[int, str] | Rejected]:
    """(row, line) for each line that is not blank, and what could not be read. Holds at most one line of the limit."""
    row = 0
    try:
        with open_decompressed(path) as file:
            while line := file.readline(max_line_bytes + 1):
                row += 1
                if len(line) > max_line_bytes:
                    start = line[:EXCERPT]
                    while line and not line.endswith(b"\n"):
                        line = file.readline(max_line_bytes)
                    yield Rejected(name, row, "line_too_long", excerpt_of(start))
                    continue
                if row == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if b"\0" in line:
                    yield Rejected(name, row, "nul_bytes", excerpt_of(line))
                    continue
                try:
                    text = line.decode()
                except UnicodeDecodeError:
                    yield Rejected(name, row, "invalid_utf8", excerpt_of(line))
                    continue
                if text.strip():
                    yield row, text
    except (OSError, EOFError, zstandard.ZstdError) as error:
        yield Rejected(name, row + 1 if row else 0, "unreadable", excerpt_of(f"{type(error).__name__}: {error}"))
    if row == 0 and path.stat().st_size == 0:
        yield Rejected(name, 0, "empty_file")


def read_json_lines(
    path: Path, name: str, text_field: str, id_field: str, max_line_bytes: int
) -> Iterator[Record | Rejected]:
    """The rows of one file of JSON lines; fields other than text and id become meta."""
    for line in read_lines(path, name, max_line_bytes):
        if isinstance(line, Rejected):
            yield line
            continue
        row, text = line
        try:
            value = json.loads(text)
        except (json.JSONDecodeError, RecursionError):
            yield Rejected(name, row, "not_json", excerpt_of(text))
            continue
        if not isinstance(value, dict):
            yield Rejected(name, row, "not_an_object", excerpt_of(text))
        elif text_field not in value:
            yield Rejected(name, row, "missing_text", excerpt_of(text))
        else:
            rest = {k: v for k, v in value.items() if k not in (text_field, id_field)}
            yield check_text(name, row, value[text_field], value.get(id_field), rest)
