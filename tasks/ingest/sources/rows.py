"""Records made one by one in Python, gathered into record batches."""

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

import orjson
import pyarrow as pa

from tasks.ingest.sources.base import ROWS, Columns, Record, Rejected, excerpt_of, which_field

# A batch ends where either is reached.
ROWS_A_BATCH, CHARACTERS_A_BATCH = 1024, 4 << 20
DEEPEST = 254  # lists and objects within each other; orjson writes as many


class TooDeep(Exception):
    """Values that lie deeper within each other than DEEPEST."""


def to_batches(found: Iterable[Record | Rejected]) -> Iterator[pa.RecordBatch | Rejected]:
    """Records in batches of up to ROWS_A_BATCH; those whose text no column of strings can hold are rejected."""
    waiting: list[Record] = []
    characters = 0
    for item in found:
        if isinstance(item, Rejected):
            yield item
            continue
        reason = why_not(item)
        if reason:
            yield Rejected(item.row, reason, excerpt_of(item.text))
            continue
        waiting.append(item)
        characters += len(item.text)
        if len(waiting) == ROWS_A_BATCH or characters >= CHARACTERS_A_BATCH:
            yield _batch(waiting)
            waiting, characters = [], 0
    if waiting:
        yield _batch(waiting)


def why_not(record: Record) -> str | None:
    """The reason why a record cannot stand in a column, None where it can."""
    text, name = record.text, record.id
    if not isinstance(text, str):
        return "null_text" if text is None else "text_is_not_a_string"
    if not (text.isascii() and (name is None or str(name).isascii())):
        try:
            f"{name}{text}".encode()
        except UnicodeEncodeError:  # JSON can spell lone surrogates, which no file can hold
            return "invalid_unicode"
    return None


def _batch(records: list[Record]) -> pa.RecordBatch:
    ids = [None if record.id is None else str(record.id) for record in records]
    columns = [[r.row for r in records], ids, [r.text for r in records], [r.meta for r in records]]
    return pa.record_batch([pa.array(c, kind) for c, kind in zip(columns, ROWS.types, strict=True)], schema=ROWS)


def to_json(values: dict[str, Any]) -> str:
    """JSON with sorted keys. What JSON has no form for (bytes, lone surrogates, large integers, inf and nan) becomes a string.
    Raises TooDeep."""
    if not values:
        return "{}"
    try:
        found = orjson.dumps(values, default=str, option=orjson.OPT_SORT_KEYS)
        if b"null" not in found or not _not_finite(values):
            return found.decode()
    except TypeError:
        pass
    return json.dumps(_plain(values), sort_keys=True, separators=(",", ":"))


def _not_finite(value: Any) -> bool:
    """Whether some number in it is inf or nan, which orjson writes as null."""
    if isinstance(value, float):
        return not math.isfinite(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return any(map(_not_finite, inner))


def record_of(row: int, fields: dict[str, Any], columns: Columns) -> Record | Rejected:
    """The record of a row's fields."""
    if columns.text_field not in fields:
        texts = [name for name, value in fields.items() if isinstance(value, str)]
        return Rejected(row, "missing_text", which_field(columns.text_field, fields, texts))
    try:
        meta = to_json({name: fields[name] for name in columns.meta_names(fields)})
    except TooDeep:
        return Rejected(row, "nested_too_deep", excerpt_of(f"fields: {', '.join(fields)}"))
    return Record(row, fields[columns.text_field], fields.get(columns.id_field), meta)


def _plain(value: Any, depth: int = 0) -> Any:
    if depth > DEEPEST:
        raise TooDeep
    if isinstance(value, dict):
        return {str(key): _plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, depth + 1) for inner in value]
    known = isinstance(value, bool | int | str | type(None)) or (isinstance(value, float) and math.isfinite(value))
    return value if known else str(value)
