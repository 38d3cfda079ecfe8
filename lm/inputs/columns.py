"""Columns of Arrow by names that are all different, and their values as Python's own, whatever their types.

Of several columns of one name the first is meant, by every reader.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lm.config import ConfigError
from lm.inputs.arrow_text import as_text, is_text

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


def plain_rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """The rows of a batch, of several columns of a name the first under that name. A text that is no UTF-8 has lone surrogates
    in the place of what is none."""
    names = own_names(batch.schema.names)
    values = [plain_values(column, "surrogateescape") for column in batch.columns]
    for place in range(batch.num_rows):
        yield {name: column[place] for name, column in zip(names, values, strict=True)}


def texts_of(path: Path, name: str) -> Iterator[pa.LargeStringArray]:
    """The texts of a column of a Parquet file, some at a time, those that are null left out; of several columns of the name the
    first. Raises ConfigError naming the file, and its columns where none of the name is one of texts."""
    try:
        with pq.ParquetFile(path) as file:
            kinds = file.schema_arrow
            if name not in kinds.names:
                raise ConfigError(f"{path}: has no column {name!r}; it has {', '.join(kinds.names)}")
            kind = kinds.field(kinds.names.index(name)).type
            if not is_text(kind):
                texts = ", ".join(field.name for field in kinds if is_text(field.type)) or "no column"
                raise ConfigError(f"{path}: column {name!r} is {kind}; of text is {texts}")
            for batch in file.iter_batches(1024, columns=[name]):
                column = batch.column(batch.schema.names.index(name))
                yield as_text(column, pa.large_string()).drop_null()
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: not a Parquet file that can be read: {reason}") from None


def plain_values(column: pa.Array, errors: str = "backslashreplace") -> list[Any]:
    """The values as Python's own; what Python has no value for, as a date after 9999, is spelled out, and what is no UTF-8 is
    decoded with `errors`."""
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        return _nanoseconds(column, errors)
    try:
        return column.to_pylist()
    except Exception:  # Arrow raises what the type it converts to raises, of any kind
        return [_plain_value(value, errors) for value in column]


def _nanoseconds(column: pa.Array, errors: str) -> list[Any]:
    """Timestamps, those within a day of what 64 bits hold as texts in UTC: a zone's offset would take them beyond it."""
    counts = column.cast(pa.int64())
    near = pc.or_(pc.greater(counts, LAST_NANOSECOND), pc.less(counts, -LAST_NANOSECOND))
    written = column.cast(pa.timestamp("ns", column.type.tz and "UTC")).cast(pa.string())
    return [
        text.as_py() if is_near.as_py() else _plain_value(value, errors)
        for value, is_near, text in zip(column, near, written, strict=True)
    ]


def _plain_value(value: pa.Scalar, errors: str) -> Any:
    try:
        return value.as_py()
    except Exception:
        return _spelled_out(value, errors)


def _spelled_out(value: pa.Scalar, errors: str) -> Any:
    kind = value.type
    if isinstance(value, pa.DictionaryScalar | pa.ExtensionScalar | pa.RunEndEncodedScalar | pa.UnionScalar):
        return _plain_value(value.value, errors)
    if isinstance(value, pa.StructScalar):
        names = own_names([kind.field(place).name for place in range(kind.num_fields)])
        return {name: _plain_value(value[place], errors) for place, name in enumerate(names)}
    if isinstance(value, pa.MapScalar):
        return [[_plain_value(pair[0], errors), _plain_value(pair[1], errors)] for pair in value.values]
    if isinstance(value, pa.ListScalar):
        return [_plain_value(inner, errors) for inner in value.values]
    if is_text(kind):
        return value.as_buffer().to_pybytes().decode("utf-8", errors)
    try:
        text = value.cast(pa.string()).as_py()
    except pa.ArrowException:
        return str(value.value)
    return str(value.value) if text.startswith("<value out of range") else text
