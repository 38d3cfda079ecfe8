"""A column of texts in lower case as compiled code reads it: its bytes, and where each text begins."""

import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.texts import Texts, text_buffers


def lowered(texts: pa.LargeStringArray) -> Texts:
    """Bytes of the texts in Unicode's simple lower case, but for ASCII letters, which compiled code folds as it reads; a column
    of ASCII alone is therefore not copied."""
    ascii_only = pc.all(pc.string_is_ascii(texts), min_count=0).as_py()
    return text_buffers(texts if ascii_only else pc.utf8_lower(texts))
