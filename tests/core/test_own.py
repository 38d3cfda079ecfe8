"""Locks and caches are this user's: what another account has put in their place is neither followed nor used."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lm.config import ConfigError
from tasks.runner import own
from tasks.runner.locks import lock, slot
from tasks.runner.own import KEPT, cache_folder, device_locks, keep_compiled_code, open_lock, own_folder
from tests.other_account import UID, can_other_account_read, needs_root, run_as_other_account
from tests.project import ROOT


def without_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder of compiled code is named; what is named in the test is forgotten after it."""
    for name in ("TORCHINDUCTOR_CACHE_DIR", "NUMBA_CACHE_DIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's folder for temporary files, for a user whose home cannot be written to."""
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(own.tempfile, "tempdir", str(shared))
    return shared


def test_a_link_in_a_locks_place_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "diary").write_text("years of it\n")
    folder = tmp_path / "locks"
    folder.mkdir()
    for name in ("run", "slot-0", "new"):
        (folder / name).symlink_to(tmp_path / ("made" if name == "new" else "diary"))
    monkeypatch.setenv("TOKENMILL_LOCKS", str(folder))
    monkeypatch.setenv("TOKENMILL_WORKERS", "1")
    for held in (lock("run", folder), lock("new", folder), slot({})):
        with pytest.raises(ConfigError, match="cannot be locked: is a link, .*; remove it") as caught, held:
            pass
        assert len(str(caught.value).splitlines()) == 1
    assert (tmp_path / "diary").read_text() == "years of it\n" and not (tmp_path / "made").exists()


def test_a_lock_is_a_plain_file_and_keeps_what_stands_in_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(ConfigError, match="cannot be locked"):
            open_lock(tmp_path / name)
    (tmp_path / "plain").write_text("12\n")
    os.close(open_lock(tmp_path / "plain"))
    assert (tmp_path / "plain").read_text() == "12\n"


def test_a_folder_that_others_can_write_to_is_not_ones_own(tmp_path: Path) -> None:
    assert own_folder(tmp_path / "new").stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(tmp_path / "new")
    (tmp_path / "wide").mkdir()
    (tmp_path / "wide").chmod(0o777)
    for name in ("link", "wide"):
        with pytest.raises(ConfigError, match=f"{name}: must be a folder of user {os.getuid()} that nobody else can"):
            own_folder(tmp_path / name)


@needs_root
def test_what_another_account_has_made_in_tmp_is_refused(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of our name with a link as the lock of a device, which leads to a file of ours."""
    place = homeless / f"tokenmill-{os.getuid()}"
    folder = os.open(homeless, os.O_RDONLY)

    def squat() -> bool:
        os.mkdir(place.name, 0o777, dir_fd=folder)
        os.chmod(place.name, 0o777, dir_fd=folder)
        return True

    assert run_as_other_account(squat) is True and place.stat().st_uid == UID
    os.close(folder)
    without_folders(monkeypatch)
    for use in (cache_folder, device_locks, keep_compiled_code):
        with pytest.raises(ConfigError, match="must be a folder of user"):
            use()
    place.rmdir()
    locks = device_locks()
    (locks / "device-0").touch()
    assert locks.parent == place and not can_other_account_read(locks / "device-0")


def test_a_home_is_preferred_and_locks_are_those_of_one_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    without_folders(monkeypatch)
    assert device_locks() == tmp_path / ".cache" / "tokenmill" / f"devices-{socket.gethostname()}"
    keep_compiled_code()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / ".cache" / "tokenmill" / "inductor")
    assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path / ".cache" / "tokenmill" / "numba")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert cache_folder() == tmp_path / "other" / "tokenmill"


def as_nameless(folder: Path, code: str, **variables: str) -> str:
    """What a program prints for a user that is in no table, without USER; with no HOME but what is given."""
    unnamed = ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME", "LNAME", "USERNAME")
    surroundings = {k: v for k, v in os.environ.items() if k not in unnamed}
    surroundings |= {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT), **variables}
    command = ["unshare", "-U", f"--map-user={UID}", f"--map-group={UID}", sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=surroundings, capture_output=True, text=True)
    if "unshare" in done.stderr:
        pytest.skip(f"no user namespaces: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_home_of_a_user_without_a_name_is_not_asked_for(tmp_path: Path) -> None:
    code = "from tasks.runner.own import cache_folder; print(cache_folder())"
    assert as_nameless(tmp_path, code) == str(tmp_path / f"tokenmill-{UID}")


def test_the_oldest_compiled_code_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    without_folders(monkeypatch)
    for age in range(KEPT + 2):
        (kept := tmp_path / "tokenmill" / "numba" / f"compiled-{age}" / "tasks").mkdir(parents=True)
        os.utime(kept.parent, (10**9 - age, 10**9 - age))
    os.chmod(tmp_path / "tokenmill", 0o700)
    keep_compiled_code()
    kept = {path.name for path in (tmp_path / "tokenmill" / "numba").iterdir()}
    assert kept == {f"compiled-{age}" for age in range(KEPT)}
