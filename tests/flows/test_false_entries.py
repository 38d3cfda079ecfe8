"""A worktree of a checkout does not look again at what the checkout has looked at in the run cache that they share."""

import os
import time
from pathlib import Path

import pytest

from flows.staleness import false_entries
from flows.staleness.false_entries import LOOKED, look_on_from, take_out

ENTRY = "cmd: a command\nouts: [{path: data/a, md5: 0}]\n"


def test_a_new_worktree_looks_at_what_came_since_its_checkout_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, folder, cache = tmp_path / "root", tmp_path / "folder", tmp_path / "cache"
    for each in (root, folder, cache / "runs/ab/one"):
        each.mkdir(parents=True)
    read: list[str] = []
    monkeypatch.setattr(false_entries, "cache_of", lambda _: cache)
    monkeypatch.setattr(false_entries, "read_yaml", lambda path: read.append(path.name) or {"cmd": "a command"})
    (cache / "runs/ab/one/first").write_text(ENTRY)
    look_on_from(root, folder)
    assert not (folder / LOOKED).exists()  # nobody has looked
    assert take_out(root) == [] and read == ["first"]
    os.utime(root / LOOKED, ns=((cache / "runs/ab/one/first").stat().st_ctime_ns + 1,) * 2)
    look_on_from(root, folder)
    assert take_out(folder) == [] and read == ["first"]
    os.utime(folder / LOOKED, ns=((cache / "runs/ab/one/first").stat().st_ctime_ns + 1,) * 2)
    time.sleep(0.05)  # times of files are of the last tick
    (cache / "runs/ab/one/second").write_text(ENTRY)
    assert take_out(folder) == [] and read == ["first", "second"]
    own = (folder / LOOKED).stat().st_mtime_ns
    look_on_from(root, folder)
    assert (folder / LOOKED).stat().st_mtime_ns == own  # it has looked itself
