"""The copy in which a run is made again: its inputs from outside of the repository, and one call at a time."""

import os
import subprocess
import threading
from pathlib import Path

import pytest

from flows.replay import reproduce as module
from flows.replay.reproduce import bring_inputs, clear, place_in
from tasks.runner.locks import LOCKS, lock
from tests.processes import PATIENCE


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository beside and below folders of text."""
    root = tmp_path / "above" / "checkout"
    root.mkdir(parents=True)
    for folder in (tmp_path / "far", tmp_path / "above" / "near" / "deeper"):
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text(folder.name)
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    return root


def locked(*paths: str) -> dict:
    return {"one": {"deps": [{"path": path} for path in paths]}, "two": {}}


def brought(root: Path, *paths: str) -> Path:
    """The copy, without anything in it, with links to these."""
    area = root / ".scratch" / "reproduce" / "abc"
    copy = place_in(area, locked(*paths))
    copy.mkdir(parents=True)
    bring_inputs(root, copy, locked(*paths))
    return copy


@pytest.mark.parametrize("paths", [["../near"], ["../../far", "../near"], ["../near/deeper", "../near", "data/raw"]])
def test_inputs_are_where_the_copy_looks_for_them_and_nothing_is_left_outside_its_folder(
    root: Path, paths: list[str]
) -> None:
    before = sorted(str(path) for path in root.parent.parent.rglob("*"))
    copy = brought(root, *paths)
    for path in paths:
        if path.startswith(".."):
            assert Path(os.path.normpath(copy / path)).samefile(root / path)
    clear(root, root / ".scratch" / "reproduce" / "abc")
    after = sorted(str(path) for path in root.parent.parent.rglob("*") if ".scratch" not in path.parts)
    assert after == [path for path in before if ".scratch" not in path]
    assert not list((root / ".scratch" / "reproduce").iterdir())


def test_an_input_that_is_gone_has_no_link(root: Path) -> None:
    for _ in range(2):
        copy = brought(root, "../gone")
        assert [path.name for path in copy.parent.iterdir()] == [copy.name]
        clear(root, root / ".scratch" / "reproduce" / "abc")


def test_an_input_of_the_name_of_the_copy_is_refused(root: Path) -> None:
    (root.parent / "abc").mkdir()
    with pytest.raises(ValueError, match=r"^\.\./abc: has the name of the copy"):
        brought(root, "../abc")


def test_two_calls_for_one_commit_follow_each_other(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, waits = threading.Event(), threading.Event()
    monkeypatch.setattr(module, "revision_of", lambda *_: ("abc" * 10, None))

    def from_revision(*_: object) -> None:
        begun.set()
        raise ValueError("nothing more is asked here")

    monkeypatch.setattr(module, "from_revision", from_revision)
    monkeypatch.setattr("tasks.runner.locks.say", lambda _: waits.set())

    def call() -> None:
        with pytest.raises(ValueError, match="nothing more"):
            module.reproduce(root, "HEAD")

    second = threading.Thread(target=call)
    with lock(f"reproduce-{('abc' * 10)[:12]}", root / LOCKS):
        second.start()
        assert waits.wait(PATIENCE) and not begun.is_set()
    second.join(PATIENCE)
    assert begun.is_set()
