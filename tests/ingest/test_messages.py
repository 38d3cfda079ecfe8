"""Where a source gives nothing, the line says what there is and what is probably meant."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.config import ConfigError
from tasks.ingest.sources import Csv, Jsonl, Parquet, Warc
from tasks.ingest.sources.base import which_field
from tests.ingest.made import ingest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path


FILES = {
    "jsonl": (Jsonl(path="*"), b'{"id": "1", "content": "one"}\n', "a, row 1: has the fields 'id', 'content'; did you mean text_field: content?"),
    "array": (Jsonl(path="*"), b'[{"id": 1, "Text": "one"}]', "a, row 1: has the fields 'id', 'Text'; did you mean text_field: Text?"),
    "csv": (Csv(path="*"), b"id,body\n1,one\n", "a: has the fields 'id', 'body'; did you mean text_field: body?"),
    "semicolons": (Csv(path="*"), b"id;text\n1;one, two\n", "a: has the fields 'id;text'; did you mean delimiter: \";\"?"),
    "tabs": (Csv(path="*"), b"id\ttext\n1\tone\n", "did you mean delimiter: \"\\t\"?"),
    "a space": (Csv(path="*"), b"id,text \n1,one\n", "has the fields 'id', 'text '; did you mean text_field: 'text '?"),
    "one string": (Jsonl(path="*"), b'{"n": 1, "utterance": "one"}\n', "has the fields 'n', 'utterance'; did you mean text_field: utterance?"),
    "two strings": (Jsonl(path="*"), b'{"q": "x", "a": "one"}\n', "row 1: has the fields 'q', 'a'"),
    "latin-1": (Jsonl(path="*"), b'{"text": "caf\xe9"}\n', "no UTF-8: state what it is, as in encoding: latin-1"),
    "no archive": (Warc(path="*"), b"<html>words", "a, row 1: <html>words"),
    "lines of lists": (Jsonl(path="*"), b"[1]\n[2]\n", "a, row 1: [1]"),
    "a zip": (Csv(path="*"), b"PK\x03\x04 and more\n", "a: is a zip archive: unpack it"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_a_source_that_gives_nothing_says_what_to_do(folder: Path, kind: str) -> None:
    source, content, expected = FILES[kind]
    (folder / "in" / "a").write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        ingest(folder, source)
    assert expected in str(raised.value) and "\n" not in str(raised.value)
    assert kind != "two strings" or "did you mean" not in str(raised.value)


@pytest.mark.parametrize("name", ["content", "TEXT", "texts"])
def test_columns_of_a_table_are_named(folder: Path, name: str) -> None:
    pq.write_table(pa.table({"n": [1], name: ["one"], "url": ["x"]}), folder / "in" / "a.parquet")
    with pytest.raises(ConfigError, match=rf"has the fields 'n', '{name}', 'url'; did you mean text_field: {name}\?"):
        ingest(folder, Parquet(path="*"))
    pq.write_table(pa.table({"text": [1], "body": ["one"]}), folder / "in" / "a.parquet")
    with pytest.raises(ConfigError, match=r"text is int64; has the fields 'body'; did you mean text_field: body\?"):
        ingest(folder, Parquet(path="*"), out="again")


def test_many_fields_are_not_all_named() -> None:
    said = which_field("text", [f"column {n}" for n in range(500)], ["column 7"])
    assert "and 488 more" in said and said.endswith("did you mean text_field: column 7?") and len(said) < 260
