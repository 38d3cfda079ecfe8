"""An object of DVC's cache that is there stays there, whole, while another process puts the same one into it."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.staleness.atomic_reflinks import reflink_atomically
from tests.project import ROOT

# Puts an object that another process has put since it looked: by DVC's own code, as far as its choice of links.
PUT_AGAIN = """
import sys
from dvc_data.hashfile.db.local import LocalHashFileDB
from dvc_objects.fs.local import localfs
from dvc_objects.fs import system
from flows.staleness.atomic_reflinks import make_reflinks_atomic

cache, source, oid = sys.argv[1:]
make_reflinks_atomic()
seen, unlink = [], system.os.unlink
system.fcntl.ioctl = lambda *_: (_ for _ in ()).throw(OSError(95, "no reflinks here"))
system.os.unlink = lambda path: (seen.append(open(there).read()), unlink(path))
store = LocalHashFileDB(localfs, cache)
there = store.oid_to_path(oid)
store.add(source, localfs, oid, check_exists=False)
assert set(seen) == {open(source).read()}, seen
"""


def no_reflink(source: str, target: str) -> None:
    """As DVC's reflink where the filesystem has none: it empties what stands there, and takes it away."""
    Path(target).write_bytes(b"")
    os.unlink(target)
    raise OSError(95, "Operation not supported")


def test_what_stands_there_is_left_where_there_are_no_reflinks(tmp_path: Path) -> None:
    """It had been emptied, and was gone until it was copied."""
    (tmp_path / "new").write_text("text")
    (tmp_path / "object").write_text("text")
    before = (tmp_path / "object").stat().st_ino
    with pytest.raises(OSError, match="not supported"):
        reflink_atomically(str(tmp_path / "new"), str(tmp_path / "object"), no_reflink)
    assert (tmp_path / "object").read_text() == "text" and (tmp_path / "object").stat().st_ino == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "object"]


def test_a_reflink_takes_the_place_of_what_stands_there(tmp_path: Path) -> None:
    """In one step: what has it open reads it to its end."""

    def reflink(source: str, target: str) -> None:
        Path(target).write_bytes(Path(source).read_bytes())

    (tmp_path / "new").write_text("new")
    (tmp_path / "object").write_text("old")
    with (tmp_path / "object").open() as held:
        reflink_atomically(str(tmp_path / "new"), str(tmp_path / "object"), reflink)
        assert held.read() == "old"
    assert (tmp_path / "object").read_text() == "new"


def test_dvc_leaves_an_object_that_another_process_has_put_meanwhile(tmp_path: Path) -> None:
    """As it takes its placeholder away, the object is still there and whole."""
    source = tmp_path / "source"
    source.write_text("the same bytes\n")
    oid = hashlib.md5(source.read_bytes(), usedforsecurity=False).hexdigest()
    place = tmp_path / "cache" / oid[:2] / oid[2:]
    place.parent.mkdir(parents=True)
    place.write_bytes(source.read_bytes())
    place.chmod(0o444)
    command = [sys.executable, "-c", PUT_AGAIN, str(tmp_path / "cache"), str(source), oid]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
