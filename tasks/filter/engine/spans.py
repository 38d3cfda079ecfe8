"""Columns of texts that are spans of others."""

import numpy as np
import pyarrow as pa

from tasks.core.texts import as_texts


def gathered(data: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> pa.LargeStringArray:
    """N texts: of `data`, which is UTF-8, so many bytes from each start."""
    from tasks.filter.engine.compiled_spans import gather

    places = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=places[1:])
    packed = np.empty(places[-1], np.uint8)
    gather(data, starts, sizes, packed)
    return as_texts(packed, places)
