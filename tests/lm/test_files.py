"""A file is the old one or the new one, whoever fails, stops or writes it too."""

import json
import os
from pathlib import Path

import pytest

from lm.files import replacing, write_json, write_text


def test_what_raises_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half \ud800")
    assert path.read_text() == "old" and os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("durable", [False, True])
def test_the_new_file_takes_the_place_of_the_old_one(tmp_path: Path, durable: bool) -> None:
    for text in ("old", "new \u00e9"):
        write_text(tmp_path / "a.txt", text, durable)
        assert (tmp_path / "a.txt").read_bytes() == text.encode() and os.listdir(tmp_path) == ["a.txt"]


def test_what_is_durable_is_synced_before_it_gets_its_name_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, fsync = [], os.fsync

    def seen(number: int) -> None:
        names = {path.stat().st_ino: path.name for path in (tmp_path, *tmp_path.iterdir())}
        synced.append((names[os.fstat(number).st_ino], (tmp_path / "a.txt").read_text()))
        fsync(number)

    monkeypatch.setattr("lm.files.os.fsync", seen)
    write_text(tmp_path / "a.txt", "old")
    assert synced == []
    write_text(tmp_path / "a.txt", "new", durable=True)
    assert synced == [(".a.txt.unfinished", "old"), (tmp_path.name, "new")]


def test_what_a_kill_has_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".a.txt.unfinished").write_text("half of a longer text")
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new" and os.listdir(tmp_path) == ["a.txt"]


def test_two_processes_that_write_one_file_do_not_meet(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.txt", shared=True) as ours, replacing(tmp_path / "a.txt") as theirs:
        assert ours != theirs and str(os.getpid()) in ours.name
        ours.write_text("ours")
        theirs.write_text("theirs")
    assert (tmp_path / "a.txt").read_text() == "ours"


def test_json_is_sorted_and_holds_no_number_that_is_none(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": 2})
    assert list(json.loads((tmp_path / "a.json").read_text())) == ["a", "b"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": 1, "a": 2}
