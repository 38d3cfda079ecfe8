"""A column of texts as Arrow keeps it, for compiled code: the bytes of all texts, and where each begins."""

import numpy as np
import pyarrow as pa

# (bytes of all texts, N + 1 offsets into them: text i is bytes[offsets[i] : offsets[i + 1]])
Texts = tuple[np.ndarray, np.ndarray]
# Bytes of a stretch (gram) in which texts are compared with those of training: about as many as 8 words have
GRAM = 40


def text_buffers(texts: pa.LargeStringArray) -> Texts:
    """(uint8 bytes, N + 1 int64 offsets into them) of N texts or nulls, read-only views of the column's own memory.

    A slice of a column has the bytes of the whole column, and offsets that do not begin at 0.
    """
    _, offsets, data = texts.buffers()
    if offsets is None or not offsets.size:  # a column without rows may have no offsets either
        return np.frombuffer(b"", np.uint8), np.frombuffer(bytes(8), np.int64)
    places = np.frombuffer(offsets, np.int64, count=len(texts) + 1, offset=8 * texts.offset)
    return np.frombuffer(data if data is not None else b"", np.uint8), places


def as_texts(data: np.ndarray, offsets: np.ndarray) -> pa.LargeStringArray:
    """The column whose buffers these are; nothing is copied or checked."""
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))
