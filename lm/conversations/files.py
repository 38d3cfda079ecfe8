"""Files of conversations: JSON lines and JSON arrays, gzipped or not, Parquet, and Arrow files as `datasets` saves them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lm.config import ConfigError
from lm.conversations.dialogue import Dialogue, Refused
from lm.conversations.layouts import dialogue_of
from lm.problems.files import lines_of, object_of

PATTERNS = ("*.jsonl", "*.jsonl.gz", "*.json", "*.parquet", "*.arrow")
ROWS_AT_ONCE, EXCERPT = 1024, 200
NEEDS = "a JSON object"


def files_of(place: Path) -> list[Path]:
    """The files of a place, which is one of them or a folder with some anywhere in it. Raises ConfigError where there is
    none."""
    found = [place] if place.is_file() else sorted({path for pattern in PATTERNS for path in place.rglob(pattern)})
    if not found:
        raise ConfigError(f"{place}: holds no {', '.join(PATTERNS)}; put files of conversations there")
    return [path for path in found if path.is_file()]


def dialogues_of(path: Path) -> Iterator[Dialogue | Refused]:
    """Every row of a file, in order. Raises ConfigError naming a file that cannot be read on."""
    for where, row in rows_of(path):
        if isinstance(row, Refused):
            yield row
            continue
        try:
            yield dialogue_of(row, where)
        except ValueError as error:
            yield refused(where, str(error), row)


def refused(where: str, reason: str, row: Any) -> Refused:
    """A row with a reason and how it begins."""
    text = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False, default=repr)
    return Refused(where, reason, text[:EXCERPT])


def rows_of(path: Path) -> Iterator[tuple[str, Any]]:
    """(`path:row`, row) of every row of a file, in order; in the place of one that is no object stands Refused. Raises
    ConfigError naming a file that cannot be read on."""
    if path.suffix in (".parquet", ".arrow"):
        yield from _table_rows(path)
        return
    if path.suffix == ".json":
        array = _array(path)
        if array is not None:
            for number, row in enumerate(array, 1):
                yield f"{path}:{number}", _checked(row, f"{path}:{number}")
            return
    for where, line in lines_of(path):
        try:
            yield where, object_of(line, where, NEEDS)
        except ConfigError as error:
            text = line.decode(errors="replace")
            yield where, refused(where, str(error).removeprefix(f"{where}: "), text)


def _array(path: Path) -> list[Any] | None:
    """The rows of a file that is one JSON array; None for one of lines."""
    text = path.read_bytes()
    if not text.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        return None
    try:
        found = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}") from None
    return found if isinstance(found, list) else None


def _checked(row: Any, where: str) -> dict[str, Any] | Refused:
    """The row, if it is an object whose texts are such: JSON can spell half a character (a lone surrogate)."""
    if not isinstance(row, dict):
        return refused(where, f"needs {NEEDS}: this is {type(row).__name__}", row)
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        return refused(where, str(error), json.dumps(row))
    return row


def _table_rows(path: Path) -> Iterator[tuple[str, Any]]:
    number = 0
    try:
        for batch in _batches(path):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}:{number}", row
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read behind row {number}: {' '.join(str(error).split())}") from None


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(ROWS_AT_ONCE)
        return
    with pa.memory_map(str(path)) as source:
        try:
            yield from pa.ipc.open_stream(source)
        except pa.ArrowInvalid:  # a file with an index, as `datasets` writes none
            reader = pa.ipc.open_file(source)
            yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
