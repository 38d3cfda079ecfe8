"""What DVC says is in use: a process that has ended holds nothing up, however its number lives on, and one that runs is waited for."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from dvc.lock import LockError
from dvc.repo import Repo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.staleness import rwlock as in_use
from flows.staleness.plan import make_plan
from flows.staleness.rwlock import Use, as_table, await_free, read_table, release_ended
from lm.config import ConfigError
from tasks.runner.lock import read_lock
from tests.flows.small_graph import RUN, make_repo, run_flow, surroundings
from tests.processes import command_of, has_ended, wait_for

SET_CHILD_SUBREAPER = 36  # of prctl
SLEEP = [sys.executable, "-c", "import time; time.sleep(1e6)"]
LONG_AGO = 10.0  # seconds; more than the kernel may be wrong by when it says when a process began


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = make_repo(tmp_path / "repo")
    monkeypatch.chdir(folder)  # DVC names stages relative to where it stands
    return folder


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(SLEEP)
    yield process
    process.kill()
    process.wait()


def record(repo: Path, *uses: Use, age: float = 0.0) -> Path:
    """The table with these entries, last written that many seconds ago."""
    path = repo / in_use.TABLE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_table(list(uses))))
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def use_of(repo: Path, process: subprocess.Popen[bytes], command: str = "dvc repro", writes: bool = True) -> Use:
    return Use(str(repo / "data" / "a"), writes, process.pid, command)


def works(repo: Path) -> bool:
    """Whether DVC says how the stages are."""
    try:
        with Repo(str(repo)) as opened:
            return bool(opened.status())
    except LockError:
        return False


def test_one_that_nobody_has_waited_for_has_ended(repo: Path, sleeper: subprocess.Popen[bytes]) -> None:
    record(repo, use_of(repo, sleeper))
    os.kill(sleeper.pid, signal.SIGKILL)
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert not works(repo)  # to DVC it lives
    assert release_ended(repo) == [] and works(repo)


def test_a_number_that_another_process_has_now(repo: Path, sleeper: subprocess.Popen[bytes]) -> None:
    record(repo, use_of(repo, sleeper), age=LONG_AGO)
    assert not works(repo)
    record(repo, use_of(repo, sleeper), age=LONG_AGO)  # DVC has written the table in between
    assert release_ended(repo) == [] and works(repo)


def test_our_own_number_was_another_process_before(repo: Path) -> None:
    path = record(repo, Use(str(repo / "data" / "a"), True, os.getpid(), "dvc repro"))
    assert release_ended(repo) == [] and read_table(path) == []


def test_one_that_runs_is_kept_and_nothing_is_written(repo: Path, sleeper: subprocess.Popen[bytes]) -> None:
    older = use_of(repo, sleeper)  # whatever its command: it began before the table was written
    path = record(repo, older)
    before = path.stat()
    assert release_ended(repo) == [older]
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    same = use_of(repo, sleeper, " ".join(SLEEP), writes=False)  # whenever it began: its command is that
    record(repo, same, age=LONG_AGO)
    assert release_ended(repo) == [same]


def test_what_ended_goes_and_the_rest_stays(repo: Path, sleeper: subprocess.Popen[bytes]) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    runs = [use_of(repo, sleeper), use_of(repo, sleeper, writes=False)]
    over = [Use(str(repo / "lib.txt"), False, gone.pid, "dvc"), Use(str(repo / "data" / "b"), True, gone.pid, "dvc")]
    path = record(repo, *runs, *over)
    written = path.stat().st_mtime
    assert release_ended(repo) == runs == read_table(path) and abs(path.stat().st_mtime - written) < 1e-3


def test_one_that_runs_is_waited_for(repo: Path, sleeper: subprocess.Popen[bytes]) -> None:
    record(repo, use_of(repo, sleeper))
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        sleeper.kill()

    await_free(repo, say)
    assert said == [f"waiting for `dvc repro` (process {sleeper.pid}) to end, which uses data/a"] and works(repo)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_table_that_was_cut_off(repo: Path, data: st.DataObject) -> None:
    text = json.dumps(as_table([Use(str(repo / "data" / "a"), True, 2**22 + 1, "dvc repro")]))  # above any number
    path = record(repo)
    path.write_text(text[: data.draw(st.integers(0, len(text)))])
    assert release_ended(repo) == [] and read_table(path) == []


@pytest.mark.parametrize("content", ["[]", '{"write": {"x": 1}}', '{"read": {"x": {"pid": 1}}}', "\x00\x00"])
def test_a_table_that_is_none(repo: Path, content: str) -> None:
    path = record(repo)
    path.write_text(content)
    assert release_ended(repo) == [] and works(repo)


def test_a_question_during_a_run_is_answered_with_who_runs(repo: Path, sleeper: subprocess.Popen[bytes]) -> None:
    record(repo, use_of(repo, sleeper))
    with pytest.raises(ConfigError, match=rf"(?s)a run is going on in .*data/a.*PID {sleeper.pid}\): dvc repro$"):
        make_plan(repo, [])


@pytest.mark.skipif(sys.platform != "linux", reason="who takes in orphans can be chosen on Linux only")
def test_a_killed_run_whose_dvc_nobody_waits_for(repo: Path, server: dict[str, str]) -> None:
    """As in a container whose first process takes no note of orphans: this process takes them in, and does not wait for them."""
    (repo / "dvc.yaml").write_text(
        json.dumps(
            {"stages": {"a": {"cmd": "mkdir -p data/a; echo x > data/a/x; sleep $(cat wait)", "outs": ["data/a"]}}}
        )
    )
    (repo / "wait").write_text("600")
    libc = ctypes.CDLL(None)
    libc.prctl(SET_CHILD_SUBREAPER, 1)
    try:
        first = subprocess.Popen(
            [sys.executable, "-c", RUN],
            cwd=repo,
            env=surroundings(repo, **server),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        working = wait_for(lambda: find(first, "sleep"), first)
        dvc = wait_for(lambda: find(first, "dvc_cli.py"), first)
        first.kill()
        first.communicate()
        wait_for(lambda: has_ended(dvc))
        assert dvc.ppid() == os.getpid() and dvc.is_running() and not works(repo)
        (repo / "wait").write_text("0")
        code, printed = run_flow(repo, server)
        assert code == 0 and "ran [" in printed and list(read_lock(repo / "dvc.lock")) == ["a"], printed
        working.kill()  # a plain command does not end with its parent, as our stages do
    finally:
        libc.prctl(SET_CHILD_SUBREAPER, 0)
        reap()


def find(run: subprocess.Popen[bytes], word: str) -> psutil.Process | None:
    every = psutil.Process(run.pid).children(recursive=True)
    return next((p for p in every if any(part.endswith(word) for part in command_of(p)[:3])), None)


def reap() -> None:
    """Take note of the orphans that came to this process and have ended."""
    for process in psutil.Process().children():
        if has_ended(process):
            process.wait()
