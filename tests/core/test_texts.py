"""The bytes of a column of texts, and the column of bytes, whatever part of a larger one it is."""

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.core.texts import as_texts, text_buffers


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # of a busy machine
@given(st.lists(st.text(max_size=5) | st.none(), max_size=6), st.data())
def test_every_text_of_any_slice_is_where_its_offsets_say(values: list[str | None], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(values)))
    column = pa.array(values, pa.large_string()).slice(start, data.draw(st.integers(0, len(values))))
    characters, offsets = text_buffers(column)
    assert len(offsets) == len(column) + 1
    found = [characters[a:b].tobytes().decode() for a, b in zip(offsets, offsets[1:], strict=False)]
    assert found == [value or "" for value in column.to_pylist()]
    assert as_texts(characters, offsets).to_pylist() == found


def test_a_column_without_buffers_has_one_offset() -> None:
    empty = pa.LargeStringArray.from_buffers(0, pa.py_buffer(b""), pa.py_buffer(b""))
    characters, offsets = text_buffers(empty)
    assert len(characters) == 0 and offsets.tolist() == [0]
