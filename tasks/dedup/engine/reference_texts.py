"""The texts of a reference set: a file or a folder of Parquet and JSON lines."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from lm.config import ConfigError
from lm.inputs import columns
from lm.inputs.hashed import hashed_files
from lm.inputs.text import LINES, decode_utf8, lines_of

ENDINGS = (".parquet", *LINES)
BYTES_AT_ONCE = 8 << 20


def files_of(folder: Path) -> list[Path]:
    """The files of a set, sorted; others, and hidden ones, are left alone. Raises ConfigError when there is none."""
    if folder.is_file():
        found = [folder]
    else:
        found = [path for path in hashed_files(folder) if not path.name.startswith(".")]
    found = [path for path in found if path.name.endswith(ENDINGS)]
    if not found:
        what = "has no file that ends with" if folder.exists() else "does not exist; it is to hold files that end with"
        raise ConfigError(f"dedup.against.folder: {folder} {what} {', '.join(ENDINGS)}; put the reference set there")
    return found


def texts_of(path: Path, field: str) -> Iterator[pa.LargeStringArray]:
    """The texts of one file, some at a time; null is no text. Raises ConfigError naming file, line or column."""
    try:
        yield from columns.texts_of(path, field) if path.name.endswith(".parquet") else _of_lines(path, field)
    except ConfigError as error:
        raise ConfigError(f"dedup.against: {error}") from None


def _of_lines(path: Path, field: str) -> Iterator[pa.LargeStringArray]:
    waiting: list[str] = []
    size = 0
    for number, line in lines_of(path):
        text = _text(line, field, f"{path}:{number}")
        if text is not None:
            waiting.append(text)
            size += len(text)
        if size > BYTES_AT_ONCE:
            yield pa.array(waiting, pa.large_string())
            waiting, size = [], 0
    yield pa.array(waiting, pa.large_string())


def _text(line: bytes, field: str, where: str) -> str | None:
    written = decode_utf8(line, where)
    try:
        row = json.loads(written)
    except (ValueError, RecursionError) as error:  # a number too long for an integer is a ValueError alone
        raise ConfigError(f"{where}: not JSON: {error}") from None
    if not isinstance(row, dict) or field not in row:
        raise ConfigError(f"{where}: has no {field!r}; name the field that holds the text as text_field")
    if row[field] is not None and not isinstance(row[field], str):
        raise ConfigError(f"{where}: {field!r} is no text; name the field that holds it as text_field")
    # a lone surrogate is no character: it becomes a question mark, which no real text would match by it
    return None if row[field] is None else row[field].encode("utf-8", "replace").decode()
