"""A project that came as an archive or an image's layer: no repository, perhaps no git."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.environment import environment
from flows.workspaces.smoke import copy_project, ours
from tasks.core.config import ConfigError
from tasks.runner.git import UNKNOWN, git, git_output, is_dirty, revision, run_git
from tests.processes import files_in
from tests.project import ROOT

WHO = ["-c", "user.name=x", "-c", "user.email=x@localhost"]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """What git tracks, and no repository."""
    copy = copy_project(ROOT, tmp_path / "archive")
    shutil.rmtree(copy / ".git")
    return copy


@pytest.fixture
def no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the program."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def test_dvc_works_without_a_repository(archive: Path) -> None:
    stage = {"cmd": "mkdir -p data/a && echo 1 > data/a/x", "outs": ["data/a"]}
    (archive / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"a": stage}}))
    (archive / "dvc.lock").unlink()
    command = [sys.executable, "-m", "dvc", "repro", "-q"]
    done = subprocess.run(command, cwd=archive, env=environment(archive), capture_output=True, text=True)
    assert done.returncode == 0 and (archive / "dvc.lock").exists(), done.stderr
    assert environment(ROOT).get("DVC_SYSTEM_CONFIG_DIR") == os.environ.get("DVC_SYSTEM_CONFIG_DIR")


def test_the_copy_of_an_archive_holds_what_the_archive_does(archive: Path, tmp_path: Path) -> None:
    before = ours(archive)
    for name in (
        ".scratch/x",
        "data/ingest/x",
        "mlflow/store/mlflow.db",
        ".dvc/cache/x",
        "tasks/core/__pycache__/x.pyc",
    ):
        (archive / name).parent.mkdir(parents=True, exist_ok=True)
        (archive / name).write_text("not ours")
    assert ours(archive) == before and {"dvc.yaml", "tasks/runner/stage.py", ".dvc/config"} <= set(before)
    copy = copy_project(archive, tmp_path / "copy")
    names = {path.relative_to(copy).as_posix() for path in files_in(copy)}
    assert {name for name in names if not name.startswith(".git/")} == set(before)


def test_the_revision_is_unknown(archive: Path) -> None:
    assert revision(archive) == UNKNOWN and revision(ROOT) != UNKNOWN


def test_git_is_started_once_where_there_is_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, run = list[list[str]](), subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **how: (started.append(command), run(command, **how))[1])
    assert revision(tmp_path) == UNKNOWN and len(started) == 1


@pytest.mark.parametrize("ignored", [True, False])
def test_a_repository_around_the_project_is_not_its_own(archive: Path, ignored: bool, tmp_path: Path) -> None:
    """Unpacked in another repository, which ignores it or has not taken it: that one's commit says nothing of this code."""
    around, before = archive.parent, ours(archive)
    git(around, "init", "-q")
    (around / ".gitignore").write_text("/archive/\n" if ignored else "/copy/\n")
    git(around, "add", ".gitignore")
    git(around, *WHO, "commit", "-qm", "another project")
    assert (revision(archive), is_dirty(archive)) == (UNKNOWN, UNKNOWN) and ours(archive) == before
    with pytest.raises(ConfigError, match="git worktree: "):
        git(archive, "worktree", "list")
    if not ignored:
        git(around, "add", "archive")
        git(around, *WHO, "commit", "-qm", "taken")
        assert (revision(archive), is_dirty(archive)) == (git(around, "rev-parse", "HEAD"), "false")
        (archive / "dvc.yaml").write_text("stages: {}\n")
        assert is_dirty(archive) == "true"


def test_a_machine_without_git_is_one_line(archive: Path, no_git: None) -> None:
    assert revision(archive) == UNKNOWN and run_git(archive, "status", binary=True).stdout == b""
    assert git_output(archive, "status") == b""
    with pytest.raises(ConfigError, match="git status: git is not installed"):
        git(archive, "status")


@pytest.mark.parametrize(
    "command",
    [
        ["flows.workspaces.variants", "--name", "x"],
        ["flows.replay.reproduce", "HEAD"],
        ["flows.replay.bisect", "HEAD", "."],
    ],
)
def test_what_needs_a_repository_says_so_in_a_line(archive: Path, command: list[str]) -> None:
    surroundings = environment(archive) | {"PYTHONPATH": str(archive), "TOKENMILL_TRACKING": "off"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=archive, env=surroundings, capture_output=True, text=True
    )
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and "git" in done.stderr, done.stderr
