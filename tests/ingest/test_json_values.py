"""JSON that is no lines: arrays, and objects over several lines, in any pieces."""

import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.ingest.sources import Jsonl
from tasks.ingest.sources.base import Rejected
from tasks.ingest.sources.json_values import is_in_lines, read_values
from tests.ingest.made import ingest, reasons


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path


class Slow(io.BytesIO):
    """Gives a few bytes at a time."""

    step = 3

    def read1(self, size: int | None = -1) -> bytes:
        return super().read1(min(self.step, size) if size and size > 0 else self.step)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('ab"\\,[]{}\n\u2603', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('k"\\', max_size=2), inner, max_size=3),
    max_leaves=12,
)
objects = st.lists(st.dictionaries(st.text(max_size=2), values, max_size=3), max_size=5)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    objects, st.sampled_from([None, 1, 4]), st.integers(1, 40), st.booleans(), st.sampled_from(["", "\n", " \ufeff"])
)
def test_values_are_those_of_json(
    rows: list[dict], indent: int | None, step: int, as_array: bool, between: str
) -> None:
    each = [between + json.dumps(row, indent=indent) for row in rows]
    whole = f"{between}[{','.join(each)}]" if as_array else "".join(each)
    stream = Slow((whole + between).encode())
    stream.step = step
    found = list(read_values(stream, 10**6))
    assert [json.loads(value) for _, value in found] == rows
    assert [number for number, _ in found] == list(range(1, len(rows) + 1))


ROWS = [{"id": str(n), "text": f"text {n}"} for n in range(3)]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf", b"\n \t"])
def test_an_array_is_read_by_its_elements(folder: Path, indent: int | None, mark: bytes) -> None:
    (folder / "in" / "a.json").write_bytes(mark + json.dumps(ROWS, indent=indent).encode() + b"\n\n")
    documents, quarantine, _ = ingest(folder, Jsonl(path="*"))
    assert {d["id"]: d["text"] for d in documents} == {row["id"]: row["text"] for row in ROWS} and not quarantine


def test_objects_over_several_lines_are_read(folder: Path) -> None:
    (folder / "in" / "a.json").write_text("\n".join(json.dumps(row, indent=2) for row in ROWS))
    documents, quarantine, _ = ingest(folder, Jsonl(path="*"))
    assert len(documents) == 3 and not quarantine


def test_lines_that_end_in_carriage_returns_alone_are_read(folder: Path) -> None:
    (folder / "in" / "a.jsonl").write_bytes(b'{"text": "one\\r"}\r{"text": "two"}\r\r{"text": "three"}\r')
    documents, quarantine, _ = ingest(folder, Jsonl(path="*"))
    assert sorted(d["text"] for d in documents) == ["one\r", "three", "two"] and not quarantine


def test_several_objects_on_a_line_are_read_or_named(folder: Path) -> None:
    (folder / "in" / "a.jsonl").write_bytes(b"".join(json.dumps(row).encode() for row in ROWS))
    (folder / "in" / "b.jsonl").write_bytes(b'{"text": "one"}\n{"text": "two"} {"text": "three"}\n{"text": "}{"}\n')
    documents, quarantine, _ = ingest(folder, Jsonl(path="*"))
    assert sorted(d["text"] for d in documents) == ["one", *(row["text"] for row in ROWS), "}{"]
    assert reasons(quarantine) == [("b.jsonl", 2, "not_json")]
    assert quarantine[0]["excerpt"].startswith("several objects on one line: put each on its own: {")


def test_byte_order_marks_before_elements_are_passed_over(folder: Path) -> None:
    mark = "\ufeff"
    (folder / "in" / "a.json").write_text(
        f'[{mark}{{"text": "one"}},\n{mark}{{"text": "two"}}]\n{mark}[{{"text": "three"}}]'
    )
    documents, quarantine, _ = ingest(folder, Jsonl(path="*"))
    assert sorted(d["text"] for d in documents) == ["one", "three", "two"] and not quarantine


def test_a_bad_element_is_quarantined_alone(folder: Path) -> None:
    (folder / "in" / "a.json").write_text(
        '[{"text": "one"}, {"text": NOT}, 17, {"text": "' + "x" * 999 + '"}, {"text": "two"},, {"text": "thr'
    )
    documents, quarantine, _ = ingest(folder, Jsonl(path="*", max_document_bytes=500))
    assert sorted(d["text"] for d in documents) == ["one", "two"]
    assert reasons(quarantine) == [
        ("a.json", 2, "not_json"),
        ("a.json", 3, "not_an_object"),
        ("a.json", 4, "document_too_long"),
        ("a.json", 6, "not_json"),
    ]
    (folder / "in" / "a.json").write_text('[{"text": "one"},')
    documents, quarantine, _ = ingest(folder, Jsonl(path="*"), out="again")
    assert len(documents) == 1 and reasons(quarantine) == [("a.json", 2, "truncated")]


LINES = {
    b'{"a": 1}\n{"b": 2}\n': True,
    b'[1, 2]\n{"a": 1}\n': True,
    b'[{"a": 1}]\n': False,
    b'[{"a": 1},\n{"a": 2}]': False,
    b'\n[\n{"a": 1}\n]': False,
    b'{\n"a": 1}': False,
    b'{"half a li\n{"a": 1}\n': True,
    b'{"a": 1}\r{"b": 2}\r': False,
    b'{"a": 1}\r\n{"b": 2}\r\n': True,
    b"": True,
    b"words\n": True,
    b'{"a": 1}{"b": 2}\n': False,
    b'{"a": "}{"\n{"b": 2}\n': True,
    b'{"a": "}{"}\n': True,
}


@pytest.mark.parametrize("content", LINES)
def test_lines_are_told_from_values(content: bytes) -> None:
    assert is_in_lines(io.BufferedReader(io.BytesIO(content)), 1000) == LINES[content]


@pytest.mark.parametrize("content", [b"]]]}{", b'["', b'["\\', b'{"a": "\\', b"[[[", b"[1] {2} [3]", b"}" * 9])
def test_what_is_no_json_ends(content: bytes) -> None:
    assert all(isinstance(found, Rejected) or found[1] for found in read_values(io.BytesIO(content), 99))
