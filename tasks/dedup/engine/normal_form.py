"""The normal form in which two texts are the same: case, white space and Unicode form apart."""

import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.texts import as_texts, text_buffers


def normalised(text: str) -> str:
    """NFC, lower case, every run of white space one space."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def all_normalised(texts: pa.LargeStringArray) -> pa.LargeStringArray:
    """Normal forms of many texts: those of ASCII alone by compiled code, the others one by one."""
    from tasks.dedup.engine.compiled_text import normalise_ascii

    data, edges = text_buffers(texts)
    out, ends = np.empty(int(edges[-1] - edges[0]), dtype=np.uint8), np.zeros(len(texts) + 1, dtype=np.int64)
    is_ascii = np.zeros(len(texts), dtype=bool)
    normalise_ascii(data, edges, out, ends, is_ascii)
    plain = as_texts(out, ends)
    if is_ascii.all():
        return plain
    others = texts.filter(pa.array(~is_ascii)).to_pylist()
    return pc.replace_with_mask(plain, pa.array(~is_ascii), pa.array(map(normalised, others), pa.large_string()))
