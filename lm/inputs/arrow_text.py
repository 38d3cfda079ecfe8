"""Columns of Arrow that hold text, of whatever type their writer gave them."""

import pyarrow as pa
import pyarrow.compute as pc

TEXT_TESTS = tuple(
    getattr(pa.types, f"is_{name}")
    for name in ("string", "large_string", "string_view", "binary", "large_binary", "binary_view", "fixed_size_binary")
)


def is_text(kind: pa.DataType) -> bool:
    """Strings of any width, plain or by a dictionary; binary is taken for text too, and its UTF-8 is checked. So is a column of
    nulls: each of its rows is one without text."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type if not kind.equals(pa.uuid()) else pa.bool_()
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        kind = kind.value_type
    return pa.types.is_null(kind) or any(test(kind) for test in TEXT_TESTS)


def as_text(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """The column as strings of this type (string or large_string), its UTF-8 not looked at."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        plain = as_text(column.dictionary, kind)
        return pa.DictionaryArray.from_arrays(column.indices, plain).dictionary_decode()
    if pa.types.is_run_end_encoded(column.type):
        column = pc.run_end_decode(column)
    if pa.types.is_null(column.type):
        return column.cast(kind)
    return column.cast(pa.large_binary() if pa.types.is_large_string(kind) else pa.binary()).view(kind)
