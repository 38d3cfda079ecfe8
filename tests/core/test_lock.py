"""dvc.lock as it is read without DVC: whole, absent, broken, and while it is being written."""

import os
from pathlib import Path

import pytest

from tasks.core.yaml import dump_yaml
from tasks.runner.lock import lock_entry, locked_in, md5_in_lock, md5s, read_lock

ENTRY = {"cmd": "true", "deps": [{"path": "a", "md5": "1"}], "outs": [{"path": "data/b", "md5": "2"}, {"path": "c"}]}
TEXT = dump_yaml({"schema": "2.0", "stages": {"b": ENTRY}})


def test_an_entry_and_its_digests(tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_text(TEXT)
    assert lock_entry(tmp_path, "b") == ENTRY and lock_entry(tmp_path, "a") is None
    assert md5s(ENTRY, "deps") == {"a": "1"} and md5s(ENTRY, "outs") == {"data/b": "2", "c": ""}
    assert md5s(None, "outs") == {} and md5s({"cmd": "true"}, "deps") == {}
    assert md5_in_lock(tmp_path, "b", "data/b") == "2"
    assert md5_in_lock(tmp_path, "b", "c") is md5_in_lock(tmp_path, "a", "data/b") is None


def test_no_file_is_no_entry_but_no_lock_to_read(tmp_path: Path) -> None:
    assert locked_in(tmp_path) is None and lock_entry(tmp_path, "b") is None
    with pytest.raises(ValueError, match="no such lock file"):
        read_lock(tmp_path / "dvc.lock")


@pytest.mark.parametrize("text", ["", "schema: '2.0'\n", "- b", TEXT[:-9] + "[", "<<<<<<< ours\n" + TEXT])
def test_what_nobody_is_writing_and_is_no_lock_is_named_at_once(tmp_path: Path, text: str) -> None:
    path = tmp_path / "dvc.lock"
    path.write_text(text)
    os.utime(path, (0, 0))
    with pytest.raises(ValueError, match="dvc.lock: not a lock file of DVC; `git checkout dvc.lock`"):
        locked_in(tmp_path)


def test_a_file_that_is_being_written_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is whole the second time that the reader has waited."""
    path, waits = tmp_path / "dvc.lock", list[float]()

    def writes_on(seconds: float) -> None:
        waits.append(seconds)
        path.write_text(TEXT if len(waits) == 2 else TEXT[: len(TEXT) // 2] + "[")

    path.write_text(TEXT[:20] + "[")
    monkeypatch.setattr("tasks.runner.lock.time.sleep", writes_on)
    assert lock_entry(tmp_path, "b") == ENTRY and len(waits) == 2
