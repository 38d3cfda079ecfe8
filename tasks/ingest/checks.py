"""Which rows of a batch can be documents: whole columns at a time, and row by row only where something is wrong."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.texts import text_buffers
from tasks.ingest.sources.base import EXCERPT, Rejected, excerpt_of

SPACE, ASCII = 0x20, 0x80
# An id is a name: what is longer was not meant as one, and would be copied into every file that speaks of its document.
MAX_ID_BYTES = 4096


@dataclass(frozen=True)
class CheckedRows:
    """The rows that are documents, their texts and ids proven to be UTF-8, and the others with the reason."""

    good: pa.RecordBatch
    rejected: list[Rejected]


def check(batch: pa.RecordBatch, max_bytes: int | None) -> CheckedRows:
    """Sort a batch of sources.base.ROWS into documents and rejected rows; the first reason that holds is the one given."""
    rejected: list[Rejected] = []
    for reason, find in (
        ("null_text", lambda rows: pc.is_null(rows.column("text"))),
        ("document_too_long", lambda rows: _longer(rows.column("text"), max_bytes)),
        ("invalid_utf8", lambda rows: _not_utf8(rows.column("text"))),
        ("empty_text", lambda rows: _blank(rows.column("text"))),
        ("nul_bytes", lambda rows: _holds_nul(rows.column("text"))),
        ("invalid_id", lambda rows: _bad_id(rows.column("id"))),
    ):
        bad = find(batch)
        if bad is None or not pc.any(bad).as_py():
            continue
        for row, start in zip(*_starts(batch.filter(bad)), strict=True):
            rejected.append(Rejected(row, reason, excerpt_of(start)))
        batch = batch.filter(pc.invert(bad))
    return CheckedRows(batch, sorted(rejected, key=lambda found: found.row))


def _starts(rows: pa.RecordBatch) -> tuple[list[int], list[bytes]]:
    texts = rows.column("text").view(pa.large_binary())
    return rows.column("row").to_pylist(), pc.binary_slice(texts.fill_null(b""), 0, 4 * EXCERPT).to_pylist()


def _longer(texts: pa.LargeStringArray, max_bytes: int | None) -> pa.BooleanArray | None:
    return None if max_bytes is None else pa.array(np.diff(text_buffers(texts)[1]) > max_bytes)


def _not_utf8(texts: pa.Array) -> pa.BooleanArray | None:
    try:
        texts.validate(full=True)
        return None
    except pa.ArrowInvalid:
        return pa.array([not _is_utf8(value) for value in texts.view(_binary(texts)).to_pylist()])


def _binary(column: pa.Array) -> pa.DataType:
    return pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()


def _is_utf8(value: bytes | None) -> bool:
    try:
        return value is None or value.decode() is not None
    except UnicodeDecodeError:
        return False


def _blank(texts: pa.LargeStringArray) -> pa.BooleanArray:
    """Texts of white space alone. One that begins with a printable ASCII character needs no second look."""
    content, starts = text_buffers(texts)
    sizes = np.diff(starts)
    blank = sizes == 0
    first = np.zeros(len(sizes), dtype=np.uint8)
    first[~blank] = content[starts[:-1][~blank]]
    doubtful = np.flatnonzero(~blank & ((first <= SPACE) | (first >= ASCII)))
    if len(doubtful):
        trimmed = pc.utf8_trim_whitespace(texts.take(pa.array(doubtful)))
        blank[doubtful] = pc.equal(pc.binary_length(trimmed), 0).to_numpy(zero_copy_only=False)
    return pa.array(blank)


def _holds_nul(texts: pa.LargeStringArray) -> pa.BooleanArray | None:
    content, starts = text_buffers(texts)
    found = np.flatnonzero(content[starts[0] : starts[-1]] == 0)
    if not len(found):
        return None
    holds = np.zeros(len(texts), dtype=bool)
    holds[np.searchsorted(starts, starts[0] + found, side="right") - 1] = True
    return pa.array(holds)


def _bad_id(ids: pa.StringArray) -> pa.BooleanArray:
    bad = _not_utf8(ids)
    if bad is not None:
        return bad
    return pc.fill_null(pc.greater(pc.binary_length(ids), MAX_ID_BYTES), False)
