"""Batches of Arrow columns, of any types and names, as rows of a source: text, id and what goes into meta."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from lm.inputs.arrow_text import as_text, is_text
from lm.inputs.columns import own_names, plain_values
from tasks.ingest.sources.base import ROWS, Columns, File, Rejected, excerpt_of, which_field
from tasks.ingest.sources.files import after, quarantined
from tasks.ingest.sources.rows import ROWS_A_BATCH, to_json

FILE_MAGIC = b"ARROW1"


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
