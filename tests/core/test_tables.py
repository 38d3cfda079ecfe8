"""Tables: the same rows are the same bytes, however they were batched, and groups stay small."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.config import ConfigError
from tasks.core import tables
from tasks.core.tables import Writer, count_rows, read_batches, read_table, row_bytes, shard_path, write_table

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.large_string()), ("n", pa.int32())])


def table_of(texts: list[str]) -> pa.Table:
    columns = [pa.array([str(i) for i in range(len(texts))]), pa.array(texts, pa.large_string())]
    return pa.table([*columns, pa.array(range(len(texts)), pa.int32())], schema=SCHEMA)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=60), st.lists(st.integers(1, 20), max_size=8))
def test_how_rows_were_batched_leaves_no_trace(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], cuts: list[int]
) -> None:
    folder, table = tmp_path_factory.mktemp("tables"), table_of(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "ROWS_A_GROUP", 7)
        patch.setattr(tables, "BYTES_A_GROUP", 100)
        write_table(folder / "whole.parquet", table)
        with Writer(folder / "cut.parquet", SCHEMA) as writer:
            first = 0
            for cut in [*cuts, len(texts)]:
                writer.write(table.slice(first, cut))
                first += cut
    assert (folder / "whole.parquet").read_bytes() == (folder / "cut.parquet").read_bytes()
    assert read_table(folder / "whole.parquet").equals(table)
    sizes = [pq.read_metadata(folder / "whole.parquet").row_group(g).num_rows for g in range(1000)[: _groups(folder)]]
    assert all(size <= 7 for size in sizes) and sum(sizes) == len(texts)


def _groups(folder: Path) -> int:
    return pq.read_metadata(folder / "whole.parquet").num_row_groups


def test_a_group_ends_with_the_row_that_fills_it(tmp_path: Path) -> None:
    big = "x" * (tables.BYTES_A_GROUP + 1)
    write_table(tmp_path / "a.parquet", table_of(["a", big, "b", big, big]))
    groups = [batch.column("id").to_pylist() for batch in read_batches(tmp_path / "a.parquet")]
    assert groups == [["0", "1"], ["2", "3"], ["4"]]


def test_the_size_of_a_row_is_that_of_its_strings() -> None:
    batch = table_of(["", "abc", "\N{GREEK SMALL LETTER ALPHA}"]).to_batches()[0]
    assert row_bytes(batch).tolist() == [9, 12, 11] and row_bytes(batch.slice(1, 1)).tolist() == [12]


def test_shards_are_one_table_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in range(11):
        write_table(shard_path(tmp_path / "t", number), table_of([f"{number}"]))
    assert read_table(tmp_path / "t", ["text"]).column("text").to_pylist() == [str(n) for n in range(11)]
    assert count_rows(tmp_path / "t") == 11
    (tmp_path / "t" / "00003.parquet").unlink()
    with pytest.raises(ConfigError, match="t: has 10 shards, and not all of them"):
        count_rows(tmp_path / "t")
