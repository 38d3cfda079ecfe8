"""Files of conversations: JSON lines, compressed or not, JSON arrays, Parquet, and Arrow files as `datasets` saves them."""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lm.config import ConfigError
from lm.conversations.dialogue import Dialogue, InvalidRow
from lm.conversations.layouts import dialogue_of
from lm.inputs import text
from lm.inputs.columns import plain_rows
from lm.inputs.hashed import check_is_hashed, hashed_files
from lm.inputs.text import LINES
from lm.problems.files import HALF, has_half_a_character, lines_of, object_of

ENDINGS = (*LINES, ".json", ".parquet", ".arrow")
ROWS_AT_ONCE, EXCERPT = 1024, 200
NEEDS = "a JSON object"


def files_of(place: Path, folder: Path) -> list[Path]:
    """The files of a place in a folder of the user's, which is one of them or has some anywhere in it. Raises ConfigError where
    there is none, and where DVC, which hashes the folder, does not look."""
    check_is_hashed(place, folder)
    found = [place] if place.is_file() else [path for path in hashed_files(place) if path.name.endswith(ENDINGS)]
    if not found:
        patterns = ", ".join(f"*{ending}" for ending in ENDINGS)
        raise ConfigError(f"{place}: holds no {patterns}; put files of conversations there")
    return found


def say_unread(folder: Path, there: Iterable[Path] | None = None) -> None:
    """Name those of a folder's files, all or these, that are not read because of how their names end, hidden ones aside."""
    there = hashed_files(folder) if there is None else there
    unread = [path for path in there if not path.name.endswith(ENDINGS) and not path.name.startswith(".")]
    if unread:
        shown = ", ".join(path.relative_to(folder).as_posix() for path in unread[:5]) + (
            ", ..." if len(unread) > 5 else ""
        )
        said = f"{len(unread)} not read, since their names end in none of {', '.join(ENDINGS)}: {shown}"
        print(f"{folder}: {said}", file=sys.stderr, flush=True)


def dialogues_of(path: Path) -> Iterator[Dialogue | InvalidRow]:
    """Every row of a file, in order. Raises ConfigError naming a file that cannot be read on."""
    for where, row in rows_of(path):
        if isinstance(row, InvalidRow):
            yield row
            continue
        try:
            yield dialogue_of(row, where)
        except ValueError as error:
            yield invalid_row(where, str(error), row)


def invalid_row(where: str, reason: str, row: Any) -> InvalidRow:
    """A row with a reason and how it begins."""
    shown = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False, default=repr)
    return InvalidRow(where, reason, shown[:EXCERPT])


def rows_of(path: Path) -> Iterator[tuple[str, Any]]:
    """(`path:row`, row) of every row of a file, in order; in the place of one that is no object stands InvalidRow. Raises
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
            yield where, invalid_row(where, str(error).removeprefix(f"{where}: "), line.decode(errors="replace"))


def _array(path: Path) -> list[Any] | None:
    """The rows of a file that is one JSON array; None for one of lines."""
    lines = text.lines_of(path)
    first = next(lines, (0, b""))[1]
    if not first.lstrip().startswith(b"["):
        return None
    written = text.decode_utf8(b"".join([first, *(line for _, line in lines)]), str(path))
    try:
        found = json.loads(written)
    except (ValueError, RecursionError) as error:  # a number too long for an integer is a ValueError alone
        raise ConfigError(f"{path}: not JSON: {error}") from None
    return found if isinstance(found, list) else None


def _checked(row: Any, where: str) -> dict[str, Any] | InvalidRow:
    """The row, if it is an object whose texts are such."""
    if not isinstance(row, dict):
        return invalid_row(where, f"needs {NEEDS}: this is {type(row).__name__}", row)
    return invalid_row(where, HALF, json.dumps(row, default=repr)) if has_half_a_character(row) else row


def _table_rows(path: Path) -> Iterator[tuple[str, Any]]:
    number = 0
    try:
        for batch in _batches(path):
            for row in plain_rows(batch):
                number += 1
                yield f"{path}:{number}", _checked(row, f"{path}:{number}")
    except (OSError, pa.ArrowException) as error:
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
