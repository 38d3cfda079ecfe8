"""Files of every kind give the same conversations; a row that is none is named with its place, and costs no other."""

import bz2
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from lm.config import ConfigError
from lm.conversations.dialogue import Dialogue, InvalidRow
from lm.conversations.files import dialogues_of, files_of
from tasks.sft.sources import Files

ROWS = [{"prompt": f"{n}+1", "completion": str(n + 1)} for n in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def arrow(path: Path, stream: bool) -> None:
    table = pa.Table.from_pylist(ROWS)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(path, table.schema) as sink:
        sink.write_table(table, max_chunksize=2)


def named_twice() -> pa.Table:
    """The rows, with a second column `prompt`, which is not the one that is meant."""
    table = pa.Table.from_pylist(ROWS)
    return table.append_column("prompt", pa.array(["x"] * len(ROWS)))


def beside(name: str, moments: list[int]) -> pa.Table:
    """The rows beside a column of moments, in microseconds: Python has none after the year 9999."""
    return pa.Table.from_pylist(ROWS).append_column(name, pa.array(moments, pa.timestamp("us")))


WAYS: dict[str, Any] = {
    "a.jsonl": lambda path: path.write_text(LINES),
    "bom.jsonl": lambda path: path.write_text("\ufeff" + LINES),
    "blank.jsonl": lambda path: path.write_text(LINES.replace("\n", "\r\n")),
    "lines.json": lambda path: path.write_text(LINES),
    "array.json": lambda path: path.write_text("\ufeff " + json.dumps(ROWS)),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES.encode())),
    "a.jsonl.zst": lambda path: path.write_bytes(zstandard.compress(LINES.encode())),
    "a.jsonl.bz2": lambda path: path.write_bytes(bz2.compress(LINES.encode())),
    "packed.json": lambda path: path.write_bytes(bz2.compress(json.dumps(ROWS).encode())),
    "joined.jsonl": lambda path: path.write_text("".join("\ufeff" + line for line in LINES.splitlines(True))),
    "utf16.jsonl": lambda path: path.write_bytes(LINES.encode("utf-16")),
    "unmarked.jsonl": lambda path: path.write_bytes(LINES.encode("utf-16-le")),
    "spread.json": lambda path: path.write_text(json.dumps(ROWS, indent=2)),
    "named.parquet": lambda path: pq.write_table(named_twice(), path),
    "dated.parquet": lambda path: pq.write_table(beside("made", [0, 253_402_300_800_000_000, 2**62]), path),
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
    refused = [row for row in found if isinstance(row, InvalidRow)]
    assert sum(isinstance(row, Dialogue) for row in found) == 2
    places = [2, 3, 4, 5] if name == "a.jsonl" else [2, 3, 4]
    assert [row.where for row in refused] == [f"{path}:{n}" for n in places]
    assert all(row.reason and row.excerpt and str(path) not in row.reason for row in refused)


def test_a_file_that_cannot_be_read_on_is_named(tmp_path: Path) -> None:
    cut, packed, torn = tmp_path / "cut.jsonl.gz", tmp_path / "a.jsonl", tmp_path / "a.parquet"
    cut.write_bytes(gzip.compress(LINES.encode())[:-9])
    packed.write_bytes(b"PK\x03\x04 and more")
    torn.write_bytes(b"PAR1 and no more")
    (tmp_path / "half.json").write_text("[{")
    for path, reason in (
        (cut, "the gzip data ends before it is whole"),
        (packed, "is a zip archive: unpack it"),
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
        assert [isinstance(row, InvalidRow) for row in found] == [False, True, False]
        assert found[1].where == f"{tmp_path / name}:2" and len(found[1].reason) < 200
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match=r"deep\.json: not JSON: .*recursion"):
        list(dialogues_of(tmp_path / "deep.json"))


def test_files_are_found_anywhere_in_a_folder_in_one_order(tmp_path: Path) -> None:
    for name in ("b/x.parquet", "a.jsonl", "b/c/z.json", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [str(p.relative_to(tmp_path)) for p in files_of(tmp_path, tmp_path)] == [
        "a.jsonl",
        "b/c/z.json",
        "b/x.parquet",
    ]
    assert files_of(tmp_path / "a.jsonl", tmp_path) == [tmp_path / "a.jsonl"]
    with pytest.raises(ConfigError, match=r"nothing: holds no \*.jsonl, "):
        files_of(tmp_path / "nothing", tmp_path)


def test_a_text_of_a_table_that_is_no_utf8_is_refused_by_its_row(tmp_path: Path) -> None:
    prompts = pa.array([b"0+1", b"caf\xe9"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": prompts, "completion": ["1", "2"]}), tmp_path / "a.parquet")
    good, bad = dialogues_of(tmp_path / "a.parquet")
    assert isinstance(good, Dialogue) and isinstance(bad, InvalidRow)
    assert bad.where == f"{tmp_path / 'a.parquet'}:2" and "no UTF-8" in bad.reason


def test_where_dvc_does_not_look_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind links to folders, and of a clone's own `.git`; a link to a file is read."""
    monkeypatch.chdir(tmp_path)
    folder = Path("data/conversations")
    for place in (folder / ".git", Path("elsewhere")):
        place.mkdir(parents=True)
        (place / "b.jsonl").write_text(LINES)
    (folder / "a.jsonl").write_text(LINES)
    (folder / "c.jsonl").symlink_to(tmp_path / "elsewhere/b.jsonl")
    assert files_of(folder, folder) == [folder / "a.jsonl", folder / "c.jsonl"]
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    for place in (folder, folder / "link", folder / "link/b.jsonl"):
        with pytest.raises(
            ConfigError, match=r"^data/conversations/link is a link to a folder, behind which DVC does not"
        ):
            files_of(place, folder)
    with pytest.raises(ConfigError, match=r"^data/conversations/.git/b.jsonl is ignored by .dvcignore"):
        files_of(folder / ".git/b.jsonl", folder)


def test_a_number_of_too_many_digits_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(f'[{json.dumps(ROWS[0])}, {{"prompt": {"1" * 5000}}}]')
    with pytest.raises(ConfigError, match=r"a\.json: not JSON: Exceeds the limit \(4300 digits\)"):
        list(dialogues_of(path))


def test_a_column_of_a_zone_that_nobody_knows_stands_beside_the_others(tmp_path: Path) -> None:
    moments = pa.array([0, 1, 2], pa.timestamp("ns", tz="Mars/X"))
    pq.write_table(pa.Table.from_pylist(ROWS).append_column("made", moments), tmp_path / "a.parquet")
    assert all(isinstance(row, Dialogue) for row in dialogues_of(tmp_path / "a.parquet"))


def test_what_becomes_too_large_is_to_be_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps({"prompt": "a" * (1 << 20), "completion": "b"}) + "\n").encode() * 80))
    with pytest.raises(ConfigError, match=r"a\.jsonl\.gz:\d+: cannot be read on: .* 200 times as large: unpack it$"):
        list(dialogues_of(path))


def test_files_that_are_not_read_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.jsonl", "b.json.gz", "c.ndjson", "deep/d.JSONL", ".gitkeep"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(LINES)
    assert len(Files().rows(tmp_path)) == 3
    said = capsys.readouterr().err
    assert f"{tmp_path}: 3 not read, since their names end in none of .jsonl, " in said
    assert said.endswith(": b.json.gz, c.ndjson, deep/d.JSONL\n")
    assert len(Files(path="a.jsonl").rows(tmp_path)) == 3 and not capsys.readouterr().err
