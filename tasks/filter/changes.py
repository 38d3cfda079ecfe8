"""What rules changed in documents that stay: a row each, with what was done and both texts about the first difference."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.texts import text_buffers
from tasks.filter.engine.spans import gathered

CHANGED = pa.schema(
    [(name, pa.string()) for name in ("id", "source", "counts")]
    + [(name, pa.large_string()) for name in ("before", "after")]
)
# Characters of either text; it begins so many before the first that differs.
EXCERPT, BEFORE_CHANGE = 2000, 200


def rows_of_changed(
    rows: pa.RecordBatch, after: pa.LargeStringArray, counts: dict[str, np.ndarray], stays: np.ndarray
) -> pa.RecordBatch:
    """Rows, out of N, that stay with another text, in their order, as CHANGED; `counts` has N a name, of which a row tells
    those that are not 0."""
    changed = np.flatnonzero(stays & np.asarray(pc.not_equal(rows["text"], after)))
    named = rows.select(["id", "source"]).take(pa.array(changed))
    columns = [*named.columns, _told(counts, changed), *_excerpts(rows["text"], after, changed)]
    return pa.record_batch(columns, schema=CHANGED)


def _told(counts: dict[str, np.ndarray], rows: np.ndarray) -> pa.StringArray:
    """Counts of each row as JSON; few differ, so each is written once."""
    names = sorted(counts)
    of_rows = list(zip(*(counts[name][rows].tolist() for name in names), strict=True)) or [()] * len(rows)
    texts = {
        values: json.dumps({name: value for name, value in zip(names, values, strict=True) if value})
        for values in set(of_rows)
    }
    return pa.array([texts[values] for values in of_rows], pa.string())


def _excerpts(
    before: pa.LargeStringArray, after: pa.LargeStringArray, rows: np.ndarray
) -> tuple[pa.LargeStringArray, pa.LargeStringArray]:
    from tasks.filter.engine.compiled_spans import about_difference

    spans = np.zeros((len(rows), 4), np.int64)
    about_difference(*text_buffers(before), *text_buffers(after), rows, BEFORE_CHANGE, EXCERPT, spans)
    one, other = (gathered(text_buffers(texts)[0], *spans[:, at : at + 2].T) for texts, at in ((before, 0), (after, 2)))
    return one, other
