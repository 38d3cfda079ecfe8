"""Batches of Arrow columns, of any types and names, as rows of a source: text, id and what goes into meta."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.arrow_text import as_text, is_text
from tasks.ingest.sources.base import ROWS, Columns, File, Rejected, excerpt_of, which_field
from tasks.ingest.sources.files import after, quarantined
from tasks.ingest.sources.rows import ROWS_A_BATCH, to_json

FILE_MAGIC = b"ARROW1"
LAST_NANOSECOND = 2**63 - 24 * 3600 * 10**9  # of those that any zone's offset can be added to


def own_names(names: Sequence[str]) -> list[str]:
    """The names, all different: the second column of a name is `name#2`, or the next number that no column bears."""
    if len(set(names)) == len(names):
        return list(names)
    found: list[str] = []
    for place, name in enumerate(names):
        number, own = 2, name
        while own in found or (own != name and own in names[place:]):
            own, number = f"{name}#{number}", number + 1
        found.append(own)
    return found


def refusal(schema: pa.Schema, columns: Columns) -> Rejected | None:
    """Why no row of this schema can be used, None where rows can."""
    texts = [field.name for field in schema if is_text(field.type)]
    if columns.text_field not in schema.names:
        return Rejected(0, "missing_text", which_field(columns.text_field, schema.names, texts))
    kind = schema.field(schema.names.index(columns.text_field)).type
    if is_text(kind):
        return None
    others = which_field(columns.text_field, texts, texts) if texts else "no column is a string"
    return Rejected(0, "text_is_not_a_string", excerpt_of(f"{columns.text_field} is {kind}; {others}"))


def rows_of(batch: pa.RecordBatch, before: int, columns: Columns) -> pa.RecordBatch:
    """The batch as sources.base.ROWS, its rows numbered from before + 1. Of several columns of a name the first is meant."""
    count = batch.num_rows
    names = own_names(batch.schema.names)
    ids = batch.column(names.index(columns.id_field)) if columns.id_field in names else pa.nulls(count, pa.string())
    meta = columns.meta_names(names)
    about = ["{}"] * count
    if meta:
        values = [plain_values(batch.column(names.index(name))) for name in meta]
        about = [to_json(dict(zip(meta, row, strict=True))) for row in zip(*values, strict=True)]
    found = [
        pa.array(range(before + 1, before + count + 1), pa.int64()),
        as_id(ids),
        as_text(batch.column(names.index(columns.text_field)), pa.large_string()),
        pa.array(about, pa.string()),
    ]
    return pa.record_batch(found, schema=ROWS)


def as_id(column: pa.Array) -> pa.Array:
    """The column as strings: numbers as they are written, fixed bytes in hexadecimal, UUIDs in their form, lists as JSON."""
    kind = column.type
    if is_text(kind) and not pa.types.is_fixed_size_binary(kind):
        return as_text(column, pa.string())
    if pa.types.is_primitive(kind) or pa.types.is_decimal(kind):
        try:
            return column.cast(pa.string())
        except pa.ArrowException:  # a time zone that this machine does not know
            pass
    return pa.array([None if value is None else _spelled(value) for value in plain_values(column)], pa.string())


def _spelled(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    return to_json({"": value})[4:-1] if isinstance(value, dict | list) else str(value)


def plain_values(column: pa.Array) -> list[Any]:
    """The values as Python's own; what Python has no value for (a date after 9999, bytes that are no UTF-8) is spelled out."""
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        return _nanoseconds(column)
    try:
        return column.to_pylist()
    except Exception:  # Arrow raises what the type it converts to raises, of any kind
        return [_plain_value(value) for value in column]


def _nanoseconds(column: pa.Array) -> list[Any]:
    """Timestamps, those within a day of what 64 bits hold as texts in UTC: a zone's offset would take them beyond it."""
    counts = column.cast(pa.int64())
    near = pc.or_(pc.greater(counts, LAST_NANOSECOND), pc.less(counts, -LAST_NANOSECOND))
    written = column.cast(pa.timestamp("ns", column.type.tz and "UTC")).cast(pa.string())
    return [
        text.as_py() if is_near.as_py() else value.as_py()
        for value, is_near, text in zip(column, near, written, strict=True)
    ]


def _plain_value(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except Exception:
        return _spelled_out(value)


def _spelled_out(value: pa.Scalar) -> Any:
    kind = value.type
    if isinstance(value, pa.DictionaryScalar | pa.ExtensionScalar | pa.RunEndEncodedScalar | pa.UnionScalar):
        return _plain_value(value.value)
    if isinstance(value, pa.StructScalar):
        names = own_names([kind.field(place).name for place in range(kind.num_fields)])
        return {name: _plain_value(value[place]) for place, name in enumerate(names)}
    if isinstance(value, pa.MapScalar):
        return [[_plain_value(pair[0]), _plain_value(pair[1])] for pair in value.values]
    if isinstance(value, pa.ListScalar):
        return [_plain_value(inner) for inner in value.values]
    if is_text(kind):
        return value.as_buffer().to_pybytes().decode("utf-8", "backslashreplace")
    try:
        text = value.cast(pa.string()).as_py()
    except pa.ArrowException:
        return str(value.value)
    return str(value.value) if text.startswith("<value out of range") else text


def read_arrow(file: File, columns: Columns) -> Iterator[pa.RecordBatch | Rejected]:
    """The rows of an Arrow file of this machine, of either of its two forms, a batch at a time."""
    row, wrong = 0, list[Rejected]()
    try:
        with quarantined(file, wrong), pa.memory_map(file.path) as mapped:
            is_file = mapped.read(len(FILE_MAGIC)) == FILE_MAGIC
            mapped.seek(0)
            with (pa.ipc.open_file if is_file else pa.ipc.open_stream)(mapped) as reader:
                if refused := refusal(reader.schema, columns):
                    yield refused
                    return
                batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
                for batch in batches:
                    for first in range(0, batch.num_rows, ROWS_A_BATCH):
                        yield rows_of(batch.slice(first, ROWS_A_BATCH), row, columns)
                        row += min(ROWS_A_BATCH, batch.num_rows - first)
    except (pa.ArrowException, ValueError) as error:
        wrong.append(Rejected(0, "unreadable", excerpt_of(f"{type(error).__name__}: {error}")))
    yield from after(wrong, row)
