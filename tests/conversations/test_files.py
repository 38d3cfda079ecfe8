"""Files of every kind give the same conversations; a row that is none is named with its place, and costs no other."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lm.config import ConfigError
from lm.conversations.dialogue import Dialogue, Refused
from lm.conversations.files import dialogues_of, files_of

ROWS = [{"prompt": f"{n}+1", "completion": str(n + 1)} for n in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def arrow(path: Path, stream: bool) -> None:
    table = pa.Table.from_pylist(ROWS)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(path, table.schema) as sink:
        sink.write_table(table, max_chunksize=2)


WAYS: dict[str, Any] = {
    "a.jsonl": lambda path: path.write_text(LINES),
    "bom.jsonl": lambda path: path.write_text("\ufeff" + LINES),
    "blank.jsonl": lambda path: path.write_text(LINES.replace("\n", "\r\n")),
    "lines.json": lambda path: path.write_text(LINES),
    "array.json": lambda path: path.write_text("\ufeff " + json.dumps(ROWS)),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES.encode())),
    "a.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=2),
    "stream.arrow": lambda path: arrow(path, True),
    "file.arrow": lambda path: arrow(path, False),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_kind_of_file_is_read_row_by_row(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WAYS[name](path)
    found = [row for row in dialogues_of(path) if isinstance(row, Dialogue)]
    assert [[m["content"] for m in row.messages] for row in found] == [["0+1", "1"], ["1+1", "2"], ["2+1", "3"]]
    assert [row.where for row in found] == [f"{path}:{n}" for n in (1, 2, 3)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_broken_row_is_refused_and_the_others_are_kept(tmp_path: Path, name: str) -> None:
    path, good = tmp_path / name, json.dumps(ROWS[0])
    broken = ['{"prompt": "x', "[1]", '{"text": "a"}', '{"prompt": "\\ud800", "completion": "y"}']
    path.write_text(
        "\n".join([good, *broken, good]) if name == "a.jsonl" else f'[{good}, 3, {{"text": "a"}}, {broken[3]}, {good}]'
    )
    found = list(dialogues_of(path))
    refused = [row for row in found if isinstance(row, Refused)]
    assert sum(isinstance(row, Dialogue) for row in found) == 2
    places = [2, 3, 4, 5] if name == "a.jsonl" else [2, 3, 4]
    assert [row.where for row in refused] == [f"{path}:{n}" for n in places]
    assert all(row.reason and row.excerpt and str(path) not in row.reason for row in refused)


def test_a_file_that_cannot_be_read_on_is_named(tmp_path: Path) -> None:
    cut, utf16, torn = tmp_path / "cut.jsonl.gz", tmp_path / "a.jsonl", tmp_path / "a.parquet"
    cut.write_bytes(gzip.compress(LINES.encode())[:-9])
    utf16.write_bytes(LINES.encode("utf-16"))
    torn.write_bytes(b"PAR1 and no more")
    (tmp_path / "half.json").write_text("[{")
    for path, reason in (
        (cut, "gzip ends"),
        (utf16, "UTF-16"),
        (torn, "cannot be read"),
        (tmp_path / "half.json", "not JSON"),
    ):
        with pytest.raises(ConfigError, match=reason) as said:
            list(dialogues_of(path))
        assert str(path) in str(said.value)


@pytest.mark.parametrize("more", ['"level": 1' + "0" * 400, '"weight": 1', '"tools": "' + "[" * 100_000 + '"'])
def test_a_row_with_a_number_or_a_depth_that_nothing_holds_ends_no_stage(more: str, tmp_path: Path) -> None:
    good = json.dumps(
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 1}]}
    )
    bad = good.replace('"weight": 1', '"weight": 1' + "0" * 400) if more == '"weight": 1' else f"{good[:-1]}, {more}}}"
    (tmp_path / "a.jsonl").write_text("\n".join([good, bad, good]))
    (tmp_path / "a.json").write_text(f"[{good}, {bad}, {good}]")
    for name in ("a.jsonl", "a.json"):
        found = list(dialogues_of(tmp_path / name))
        assert [isinstance(row, Refused) for row in found] == [False, True, False]
        assert found[1].where == f"{tmp_path / name}:2" and len(found[1].reason) < 200
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match=r"deep\.json: not JSON: .*recursion"):
        list(dialogues_of(tmp_path / "deep.json"))


def test_files_are_found_anywhere_in_a_folder_in_one_order(tmp_path: Path) -> None:
    for name in ("b/x.parquet", "a.jsonl", "b/c/z.json", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [str(p.relative_to(tmp_path)) for p in files_of(tmp_path)] == ["a.jsonl", "b/c/z.json", "b/x.parquet"]
    assert files_of(tmp_path / "a.jsonl") == [tmp_path / "a.jsonl"]
    with pytest.raises(ConfigError, match=r"nothing: holds no \*.jsonl, "):
        files_of(tmp_path / "nothing")
