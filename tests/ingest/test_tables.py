"""Tables with columns of any type and name: a column that is only meta costs no row, and never a file."""

import datetime
import decimal
import json
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lm.inputs.arrow_text import as_text, is_text
from lm.inputs.columns import own_names, plain_values
from tasks.core.config import ConfigError
from tasks.ingest.sources import Parquet
from tests.ingest.made import ingest, ingest_for_all, reasons

ID = uuid.UUID("3600682b-1779-4051-b053-7f286f9aca1b")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path


def invalid(kind: pa.DataType) -> pa.Array:
    return pa.array([b"ok", b"caf\xe9"], pa.binary()).view(pa.string()).cast(kind)


def extension(kind: pa.DataType, values: list, storage: pa.DataType) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, pa.array(values, storage))


MAP = pa.map_(pa.string(), pa.timestamp("us"))
# Two values of each type, and what the second becomes in meta.
VALUES = {
    "a date after 9999": (pa.array([0, 253_402_300_800_000_000], pa.timestamp("us")), "10000-01-01 00:00:00.000000"),
    "a time that no calendar has": (pa.array([0, 2**62], pa.timestamp("us")), str(2**62)),
    "an unknown time zone": (pa.array([0, 5], pa.timestamp("us", "Mars/Olympus")), "5"),
    "a day out of range": (pa.array([0, 2**31 - 1], pa.date32()), str(2**31 - 1)),
    "a long duration": (pa.array([0, 2**62], pa.duration("s")), str(2**62)),
    "a huge decimal": (pa.array([decimal.Decimal(1), decimal.Decimal(10) ** 60], pa.decimal256(76, 2)), f"1{'0' * 60}.00"),
    "a UUID": (pa.array([ID.bytes] * 2, pa.uuid()), str(ID)),
    "fixed bytes": (pa.array([b"ab", b"cd"], pa.binary(2)), "b'cd'"),
    "half a float": (pa.array([0.5, 1.5], pa.float16()), 1.5),
    "no float": (pa.array([0.5, float("nan")]), "nan"),
    "an endless float": (pa.array([0.5, float("-inf")]), "-inf"),
    "endless floats beside none": (pa.array([[], [None, float("inf")]]), [None, "inf"]),
    "the last nanosecond in a zone": (pa.array([0, 2**63 - 1], pa.timestamp("ns", "Europe/Berlin")), "2262-04-11 23:47:16.854775807Z"),
    "the first nanosecond in a zone": (pa.array([0, -(2**63)], pa.timestamp("ns", "-05:00")), "1677-09-21 00:12:43.145224192Z"),
    "the first nanosecond": (pa.array([0, -(2**63)], pa.timestamp("ns")), "1677-09-21 00:12:43.145224192"),
    "no UTF-8": (invalid(pa.string()), "caf\\xe9"),
    "a view that is no UTF-8": (invalid(pa.string_view()), "caf\\xe9"),
    "a view": (pa.array(["a", "b" * 20], pa.string_view()), "b" * 20),
    "a dictionary of numbers": (pa.array([4, 5]).dictionary_encode(), 5),
    "nulls": (pa.nulls(2), None),
    "a list of dates": (pa.array([[0], [0, 2**62]], pa.list_(pa.timestamp("us"))), ["1970-01-01T00:00:00", str(2**62)]),
    "a large list": (pa.array([[1], [2, None]], pa.large_list(pa.int8())), [2, None]),
    "a list of two": (pa.array([[1, 2], [3, 4]], pa.list_(pa.int8(), 2)), [3, 4]),
    "a struct of dates": (pa.array([{"a": 0, "b": 1}, {"a": 2**62, "b": 2}], pa.struct([("a", pa.duration("s")), ("b", pa.int8())])), {"a": str(2**62), "b": 2}),
    "a map of dates": (pa.array([[("k", 0)], [("k", 2**62), ("l", None)]], MAP), [["k", str(2**62)], ["l", None]]),
    "a struct in a list": (pa.array([[], [{"a": [None]}]], pa.list_(pa.struct([("a", pa.list_(pa.int8()))]))), [{"a": [None]}]),
    "JSON": (extension(pa.json_(pa.string()), ["1", '{"a":2}'], pa.string()), '{"a":2}'),
    "a month": (pa.array([0, 400], pa.date32()), "1971-02-05"),
}  # fmt: skip


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict], list[dict]]:
    """(documents, quarantine) of a table of each kind, all read at once, since a run of the stage is what takes time."""
    folder = tmp_path_factory.mktemp("tables")
    (folder / "in").mkdir()
    for number, (kind, (column, _)) in enumerate(VALUES.items()):
        texts = [f"one {kind}", f"two {kind}"]
        pq.write_table(pa.table({"text": texts, "x": column}), folder / "in" / f"{number}.parquet")
    return ingest_for_all(folder, Parquet(path="*"))[:2]


@pytest.mark.parametrize("kind", VALUES)
def test_what_is_only_meta_costs_no_row(read: tuple[list[dict], list[dict]], kind: str) -> None:
    documents, quarantine = read
    found = {d["text"]: json.loads(d["meta"])["x"] for d in documents if d["text"] in (f"one {kind}", f"two {kind}")}
    assert set(found) == {f"one {kind}", f"two {kind}"} and found[f"two {kind}"] == VALUES[kind][1] and not quarantine


@pytest.mark.parametrize("kind", VALUES)
def test_a_value_is_written_the_same_whoever_stands_beside_it(kind: str) -> None:
    """Batches are cut anywhere: the bad value must not change how its neighbours are spelled."""
    column = VALUES[kind][0]
    together = plain_values(column)
    alone = [value for place in range(2) for value in plain_values(column.slice(place, 1))]
    assert repr(together) == repr(alone)


def test_types_that_no_parquet_file_holds() -> None:
    twice = pa.StructArray.from_arrays([pa.array([1, 2]), pa.array([3, 4])], names=["a", "a"])
    assert plain_values(twice) == [{"a": 1, "a#2": 3}, {"a": 2, "a#2": 4}]
    ends = pa.RunEndEncodedArray.from_arrays([1, 2], pa.array([0, 2**62], pa.duration("s")))
    assert plain_values(ends) == [datetime.timedelta(0), str(2**62)]


TEXTS = {
    "string_view": pa.array(["one", "two, longer than twelve bytes"], pa.string_view()),
    "binary_view": pa.array([b"one", b"two, longer than twelve bytes"], pa.binary_view()),
    "fixed bytes": pa.array([b"one", b"two"], pa.binary(3)),
    "JSON": extension(pa.json_(pa.string()), ["one", "two"], pa.string()),
    "large_string": pa.array(["one", "two"], pa.large_string()),
}  # fmt: skip


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_and_ids_of_every_kind(folder: Path, kind: str) -> None:
    column = TEXTS[kind]
    pq.write_table(pa.table({"text": column, "id": column}), folder / "in" / "a.parquet")
    documents, quarantine, _ = ingest(folder, Parquet(path="*"))
    assert sorted(d["text"][:3] for d in documents) == ["one", "two"] and not quarantine
    assert kind == "fixed bytes" or {d["id"] for d in documents} == {d["text"] for d in documents}


def test_a_dictionary_of_views_is_text() -> None:
    views = pa.array(["one", "two"], pa.string_view())
    column = pa.DictionaryArray.from_arrays(pa.array([1, None, 0], pa.int8()), views)
    assert is_text(column.type) and as_text(column, pa.large_string()).to_pylist() == ["two", None, "one"]


IDS = {
    "UUID": (pa.array([ID.bytes], pa.uuid()), str(ID)),
    "fixed bytes": (pa.array([ID.bytes], pa.binary(16)), ID.hex),
    "number": (pa.array([7]), "7"),
    "decimal": (pa.array([decimal.Decimal("7.5")]), "7.5"),
    "date": (pa.array([0], pa.timestamp("us")), "1970-01-01 00:00:00.000000"),
    "unknown zone": (pa.array([5], pa.timestamp("us", "Mars/Olympus")), "5"),
    "list": (pa.array([[1, 2]]), "[1,2]"),
    "struct": (pa.array([{"a": 1}]), '{"a":1}'),
    "dictionary": (pa.array([7]).dictionary_encode(), "7"),
}


@pytest.mark.parametrize("kind", IDS)
def test_ids_of_every_type(folder: Path, kind: str) -> None:
    column, expected = IDS[kind]
    pq.write_table(pa.table({"text": ["one"], "id": column}), folder / "in" / "a.parquet")
    assert [d["id"] for d in ingest(folder, Parquet(path="*"))[0]] == [expected]


def test_several_columns_of_a_name(folder: Path) -> None:
    columns = [pa.array([value]) for value in ("one", "other", 1, 2, 3)]
    table = pa.Table.from_arrays(columns, ["text", "text", "v", "v", "v#2"])
    pq.write_table(table, folder / "in" / "a.parquet")
    documents, quarantine, _ = ingest(folder, Parquet(path="*"))
    assert [d["text"] for d in documents] == ["one"] and not quarantine
    assert json.loads(documents[0]["meta"]) == {"text#2": "other", "v": 1, "v#2": 3, "v#3": 2}
    assert own_names(["a", "a", "a#2", "a", "b"]) == ["a", "a#3", "a#2", "a#4", "b"]


def test_a_view_that_is_no_utf8_is_quarantined_by_row(folder: Path) -> None:
    pq.write_table(pa.table({"text": invalid(pa.string_view())}), folder / "in" / "a.parquet")
    documents, quarantine, _ = ingest(folder, Parquet(path="*"))
    assert [d["text"] for d in documents] == ["ok"] and reasons(quarantine) == [("a.parquet", 2, "invalid_utf8")]


def test_a_column_of_nulls_is_rows_without_text(folder: Path) -> None:
    pq.write_table(pa.table({"text": pa.nulls(2)}), folder / "in" / "a.parquet")
    with pytest.raises(ConfigError, match="null_text 2"):
        ingest(folder, Parquet(path="*"))
