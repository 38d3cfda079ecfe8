"""A revision in a worktree of its own: as committed, with its clone's cache and remotes, and one for an owner."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.environment import environment
from flows.workspaces.worktree import fetch_commit, worktree
from tests.flows.team import commit, git, use_remote

STAGE = {"cmd": "mkdir -p data/a && cp input data/a/x", "deps": ["input"], "outs": ["data/a"]}


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A git repository with a small graph."""
    folder = tmp_path / "origin"
    folder.mkdir()
    git(folder, "init", "-q")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=folder, env=environment(folder), check=True)
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"a": STAGE}}))
    (folder / "input").write_text("one\n")
    (folder / ".gitignore").write_text("/data\n.scratch\n")
    commit(folder, "one")
    return folder


@pytest.fixture
def clone(origin: Path, tmp_path: Path) -> Path:
    """A clone with a remote that its configuration names by a relative path."""
    git(tmp_path, "clone", "-q", str(origin), str(tmp_path / "clone"))
    use_remote(tmp_path / "clone", "../../remote")
    return tmp_path / "clone"


def dvc(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment(folder), check=True, capture_output=True, text=True
    ).stdout


def test_it_is_as_committed_and_shares_cache_and_remotes(clone: Path, tmp_path: Path) -> None:
    revision = git(clone, "rev-parse", "HEAD")
    (clone / "input").write_text("edited here\n")
    with worktree(clone, "me", revision) as tree:
        assert (tree / "input").read_text() == "one\n" and git(tree, "rev-parse", "HEAD") == revision
        dvc(tree, "repro", "-q")
        dvc(tree, "push", "-q", "a")
        md5 = yaml.safe_load((tree / "dvc.lock").read_text())["stages"]["a"]["outs"][0]["md5"]
    for place in (clone / ".dvc" / "cache", tmp_path / "remote"):
        assert (place / "files" / "md5" / md5[:2] / md5[2:]).exists()
    assert (tree / ".dvc" / "config.local").stat().st_mode & 0o077 == 0  # it may hold credentials
    assert (clone / "input").read_text() == "edited here\n"


def test_it_stays_with_its_scratch_and_goes_with_the_next_revision(clone: Path, origin: Path) -> None:
    first = git(clone, "rev-parse", "HEAD")
    with worktree(clone, "me", first) as tree:
        (tree / ".scratch").mkdir()
        (tree / ".scratch" / "checkpoint").write_text("half way\n")
        (tree / "input").write_text("changed by somebody\n")
        (tree / "left").write_text("behind\n")
    with worktree(clone, "me", first) as again:
        assert again == tree and (tree / ".scratch" / "checkpoint").exists()
        assert (tree / "input").read_text() == "one\n" and not (tree / "left").exists()
    with worktree(clone, "other", first) as others:
        assert others != tree
    (origin / "input").write_text("two\n")
    commit(origin, "two")
    second = git(origin, "rev-parse", "HEAD")
    fetch_commit(clone, "origin", second)
    with worktree(clone, "me", second) as newer:
        assert (newer / "input").read_text() == "two\n"
    assert not tree.exists() and others.exists()


def test_a_broken_worktree_is_made_anew(clone: Path) -> None:
    revision = git(clone, "rev-parse", "HEAD")
    with worktree(clone, "me", revision) as tree:
        pass
    (tree / ".git").unlink()
    with worktree(clone, "me", revision) as again:
        assert again == tree and git(again, "rev-parse", "--show-toplevel") == str(tree)


def test_a_revision_that_was_not_pushed_is_named(clone: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^revision 0123456789ab is not in the git remote origin \(.*origin\): `git push` it$"
    ):
        fetch_commit(clone, "origin", "0123456789abcdef0123456789abcdef01234567")


def test_an_unreachable_git_remote_is_one_line(clone: Path, tmp_path: Path) -> None:
    git(clone, "remote", "set-url", "origin", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"^git remote origin \(.*nowhere\) cannot be read: .*") as caught:
        fetch_commit(clone, "origin", "0123456789abcdef0123456789abcdef01234567")
    assert "\n" not in str(caught.value)
