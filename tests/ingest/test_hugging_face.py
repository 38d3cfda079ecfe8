"""Folders as the hub's library lays them out and saves them, whose files may differ."""

import gzip
import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.config import ConfigError
from tasks.ingest.sources import HuggingFace
from tests.ingest.made import ingest, reasons, row


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in" / "set").mkdir(parents=True)
    return tmp_path


SET = HuggingFace(dataset="set")


def test_files_may_differ_in_their_columns(folder: Path) -> None:
    (folder / "in" / "set" / "a.jsonl").write_bytes(row("one", id="1"))
    (folder / "in" / "set" / "b.jsonl").write_bytes(
        row("two", id="2", extra=5) + row("three", id="3", extra="5") + b"{bad\n"
    )
    documents, quarantine, _ = ingest(folder, SET)
    assert {d["id"]: d["meta"] for d in documents} == {"1": "{}", "2": '{"extra":5}', "3": '{"extra":"5"}'}
    assert reasons(quarantine) == [("set/b.jsonl", 3, "not_json")]


def test_tables_may_differ_in_their_types(folder: Path) -> None:
    for name, column in {"a": pa.array([1]), "b": pa.array(["x"]), "c": pa.array([[1.5]])}.items():
        pq.write_table(pa.table({"text": [name], "x": column}), folder / "in" / "set" / f"train-{name}.parquet")
    documents, quarantine, _ = ingest(folder, SET)
    assert {d["text"]: json.loads(d["meta"])["x"] for d in documents} == {
        "a": 1,
        "b": "x",
        "c": [1.5],
    } and not quarantine


def test_splits_and_other_files_of_the_folder(folder: Path) -> None:
    for split in ("train", "test"):
        (folder / "in" / "set" / f"{split}.csv.gz").write_bytes(gzip.compress(f"text\n{split} row\n".encode()))
    (folder / "in" / "set" / "README.md").write_text("# About")
    assert [d["text"] for d in ingest(folder, SET)[0]] == ["train row"]
    assert [d["text"] for d in ingest(folder, HuggingFace(dataset="set", split="test"), out="test")[0]] == ["test row"]
    with pytest.raises(ConfigError, match="no split 'validation'; there are train, test"):
        ingest(folder, HuggingFace(dataset="set", split="validation"), out="none")


def test_files_of_another_kind_beside_those_read_are_named(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "in" / "set" / "train.jsonl").write_bytes(row("one"))
    (folder / "in" / "set" / "README.md").write_text("# About")
    assert [d["text"] for d in ingest(folder, SET, out="alone")[0]] == ["one"]
    assert "not read" not in capfd.readouterr().err
    (folder / "in" / "set" / "train.csv.gz").write_bytes(gzip.compress(b"text\ntwo\n"))
    assert [d["text"] for d in ingest(folder, SET)[0]] == ["one"]
    said = f"ingest: hugging_face: {folder / 'in' / 'set'}: 1 not read beside .jsonl, the one kind that is read of a folder: "
    assert said + "train.csv.gz: read those by a source of their own\n" in capfd.readouterr().err


def test_a_saved_folder_that_is_not_whole_says_what_is_missing(folder: Path) -> None:
    datasets.Dataset.from_dict({"text": ["one"]}).save_to_disk(str(folder / "in" / "set"))
    shard = folder / "in" / "set" / "data-00000-of-00001.arrow"
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(ConfigError, match=r"00001.arrow: missing, and .*state.json names it: copy the whole folder"):
        ingest(folder, SET)
    shard.write_bytes(content)
    for number, said in enumerate(["{}", "[]", "{", '{"_data_files": 5}', '{"_data_files": [{}]}']):
        (folder / "in" / "set" / "state.json").write_text(said)
        with pytest.raises(ConfigError, match=r"state.json: .*it is not as save_to_disk writes it") as raised:
            ingest(folder, SET, out=str(number))
        assert "\n" not in str(raised.value) and "Error" not in str(raised.value)


def test_what_was_saved_to_disk_is_read(folder: Path) -> None:
    saved = datasets.Dataset.from_dict({"text": [f"text {n}" for n in range(9)], "n": range(9)})
    saved.save_to_disk(str(folder / "in" / "one"), num_shards=3)
    datasets.DatasetDict(train=saved.select([1, 3]), test=saved).save_to_disk(str(folder / "in" / "several"))
    documents, quarantine, _ = ingest(
        folder, HuggingFace(dataset="one"), HuggingFace(dataset="several", label="several")
    )
    found = [(d["source"], d["text"], d["meta"]) for d in documents]
    assert sorted(found) == sorted(
        [("hugging_face", f"text {n}", f'{{"n":{n}}}') for n in range(9)]
        + [("several", f"text {n}", f'{{"n":{n}}}') for n in (1, 3)]
    )
    assert not quarantine
    with pytest.raises(ConfigError, match="no split 'dev'; there are train, test"):
        ingest(folder, HuggingFace(dataset="several", split="dev"), out="dev")


def test_a_saved_shard_that_is_torn_gives_the_rows_before(folder: Path) -> None:
    saved = datasets.Dataset.from_dict({"text": [f"{n} " + "words " * 50 for n in range(3000)]})
    saved.save_to_disk(str(folder / "in" / "set"))
    path = folder / "in" / "set" / "data-00000-of-00001.arrow"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    documents, quarantine, _ = ingest(folder, SET)
    assert 0 < len(documents) < 3000 and [q["reason"] for q in quarantine] == ["unreadable"]
    assert quarantine[0]["row"] == len(documents) + 1


def test_what_the_library_alone_reads_ends_in_no_traceback(folder: Path) -> None:
    (folder / "in" / "set" / "a.txt").write_text("one\ntwo\n")
    documents, quarantine, _ = ingest(folder, SET)
    assert sorted(d["text"] for d in documents) == ["one", "two"] and not quarantine
    (folder / "in" / "set" / "a.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(ConfigError, match="unreadable 1.*UnicodeDecodeError"):
        ingest(folder, SET, out="again")


def test_the_field_that_is_meant_is_named(folder: Path) -> None:
    (folder / "in" / "set" / "a.jsonl").write_bytes(b'{"id": "1", "content": "one"}\n')
    with pytest.raises(ConfigError, match=r"missing_text 1\); set/a.jsonl, row 1: has the fields 'id', 'content'; did you mean text_field: content\?"):  # fmt: skip
        ingest(folder, SET)
