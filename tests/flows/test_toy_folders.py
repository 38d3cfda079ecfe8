"""Where toy runs work: outside the project, and gone however they end."""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from flows.preflight.start import announce_and_rehearse
from flows.staleness.scratch import clean
from flows.staleness.toy_folders import PREFIX, YOUNG, place_of_toys, remove_abandoned, toy_folder
from tasks.core.config import ConfigError
from tests.project import ROOT

WORKING = """
import sys, time
from pathlib import Path
from flows.staleness.toy_folders import toy_folder
with toy_folder(Path.cwd()) as (folder, _):
    (folder / "half").write_text("of a toy run")
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder, empty, beside a project's."""
    (tmp_path / "project").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path / "temporary"


def grown_old(folder: Path) -> Path:
    long_ago = folder.stat().st_mtime - 2 * YOUNG
    os.utime(folder, (long_ago, long_ago))
    return folder


def test_a_folder_is_outside_the_project_and_goes_at_the_end(place: Path, tmp_path: Path) -> None:
    with toy_folder(tmp_path / "project") as (folder, _):
        assert folder.parent == place and folder.stat().st_mode & 0o077 == 0
    assert not list(place.iterdir())


def test_what_a_killed_toy_run_leaves_is_removed_and_what_one_at_work_has_is_not(place: Path, tmp_path: Path) -> None:
    (other := place / f"{PREFIX}link").symlink_to(ROOT, target_is_directory=True)  # as somebody may put one in /tmp
    command = [sys.executable, "-c", WORKING]
    with subprocess.Popen(
        command,
        cwd=tmp_path / "project",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        folder = grown_old(Path(process.stdout.readline().strip()))
        assert remove_abandoned(tmp_path / "project") == [] and (folder / "half").exists()
        process.kill()
    assert remove_abandoned(tmp_path / "project") == [folder] and list(place.iterdir()) == [other]
    assert (ROOT / "dvc.yaml").exists()


def test_make_clean_and_the_next_start_remove_it(place: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "dvc.yaml").write_text("stages: {}\n")
    (project / "params.yaml").write_text("seed: 0\n")
    left = grown_old(Path(tempfile.mkdtemp(prefix=PREFIX)))
    assert clean(project) == [f"removed {left}"] and not left.exists()
    left, young = grown_old(Path(tempfile.mkdtemp(prefix=PREFIX))), Path(tempfile.mkdtemp(prefix=PREFIX))
    with toy_folder(project):
        assert not left.exists() and young.exists()


def test_make_clean_makes_room_where_there_is_no_temporary_folder(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    (project / "dvc.yaml").write_text("stages: {}\n")
    (project / "params.yaml").write_text("seed: 0\n")
    (project / ".scratch/smoke").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "gettempdir", full)
    assert clean(project) == [] and not (project / ".scratch/smoke").exists()


def test_another_machines_folder_is_left_alone(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared file system may keep the locks of each machine from the others."""
    (tmp_path / "project/dvc.yaml").write_text("stages: {}\n")
    with toy_folder(tmp_path / "project") as (ours, _):
        name = ours.name.replace(socket.gethostname(), f"{socket.gethostname()}-2")
    assert socket.gethostname() in ours.name
    theirs = place / name
    theirs.mkdir()
    grown_old(theirs)
    assert remove_abandoned(tmp_path / "project") == [] and theirs.exists()


def test_a_temporary_folder_in_the_project_is_not_taken(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files there are what the project's .dvcignore speaks of."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert place_of_toys(place.parent / "project") == place
    assert place_of_toys(place) == tmp_path / "cache" / "tokenmill"
    with pytest.raises(
        ConfigError, match=r"^TMPDIR: .* is in the project, as XDG_CACHE_HOME is: name a folder outside"
    ):
        place_of_toys(tmp_path)


def test_no_place_for_one_is_a_finding(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "mkdtemp", full)
    found, needs = announce_and_rehearse(tmp_path / "project", {}, [], print, print)
    assert [str(one) for one in found] == [
        f"TMPDIR: {place}: No space left on device: make room, or name another folder"
    ]
    assert needs == {}


def full(**_: object) -> str:
    raise OSError(28, "No space left on device")
