"""A fork is what a new process of the same command is: what it prints, its status, its environment, path, signals and parent."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.core import jit
from tests.forks import process as forks
from tests.forks.process import PLAIN, Forked, may_fork, run_forked, started
from tests.imports import ROOT
from tests.processes import PATIENCE

SAYS = """
import json, os, signal, sys, threading
said = {
    "argv": sys.argv, "orig_argv": sys.orig_argv, "path": sys.path[:3], "cwd": os.getcwd(), "environment": dict(os.environ),
    "name": __name__, "spec": __spec__.name, "threads": threading.active_count(), "files": sorted(os.listdir("/proc/self/fd"))[:3],
    "signals": [str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
    "ours": sorted(name for name in sys.modules if name.partition(".")[0] in ("tests", "tasks", "lm", "flows", "kernels")),
}
print(json.dumps(said))
"""
ENDS = {
    "well": ("print('done')", 0),
    "exit": ("import sys; print('no', file=sys.stderr); sys.exit(3)", 3),
    "words": ("raise SystemExit('so not')", 1),
    "nothing": ("raise SystemExit", 0),
    "many": ("raise SystemExit(259)", 3),
    "error": ("raise KeyError('k')", 1),
    "at exit": ("import atexit; atexit.register(print, 'last')", 0),
    "thread": ("import threading; threading.Timer(0.01, print, ['behind']).start()", 0),
    "interrupt": ("raise KeyboardInterrupt", -2),
    "signal": ("import os; os.kill(os.getpid(), 9)", -9),
}


def new(folder: Path) -> subprocess.Popen[str]:
    """The module `said` of a folder as a new process."""
    command = [sys.executable, "-m", "said", "a", "b"]
    given = dict(
        os.environ
    )  # less than what is handed on unasked: readline sets the terminal's size behind Python's back
    return subprocess.Popen(command, cwd=folder, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def forked(folder: Path) -> Forked:
    """The same as a fork."""
    process = started("said", ["a", "b"], folder, dict(os.environ), PLAIN)
    assert isinstance(process, Forked)
    return process


def test_it_finds_what_a_new_process_finds(tmp_path: Path) -> None:
    (tmp_path / "said.py").write_text(SAYS)
    first, second = (json.loads(process.communicate()[0]) for process in (new(tmp_path), forked(tmp_path)))
    for said in (first, second):  # an empty or relative path of PYTHONPATH is of the folder that both begin in
        said["path"] = [os.path.abspath(tmp_path / path) for path in said["path"]]
    assert first == second


@pytest.mark.parametrize("end", ENDS)
def test_it_ends_as_a_new_process_ends(tmp_path: Path, end: str) -> None:
    program, status = ENDS[end]
    (tmp_path / "said.py").write_text(program)
    printed = []
    for process in (new(tmp_path), forked(tmp_path)):
        text, _ = process.communicate()
        assert process.returncode == process.poll() == status
        printed.append(text.splitlines()[-1:])
    assert printed[0] == printed[1]


def test_run_to_its_end_it_has_its_errors_apart(tmp_path: Path) -> None:
    (tmp_path / "said.py").write_text("import sys\nprint(sys.argv[1])\nsys.exit('so not')")
    done, new = (
        run_forked("said", ["a"], tmp_path, {**os.environ, **more}, PLAIN) for more in ({}, {"OMP_NUM_THREADS": "7"})
    )
    assert (
        (done.returncode, done.stdout, done.stderr)
        == (new.returncode, new.stdout, new.stderr)
        == (1, "a\n", "so not\n")
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_it_is_signalled_while_it_runs_and_not_after(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "said.py").write_text("import signal\nprint('up', flush=True)\nsignal.pause()")
    process = forked(tmp_path)
    assert process.stdout.readline() == "up\n" and process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.send_signal(number)
    assert process.wait() == -number
    process.kill()  # of another process by now, perhaps


def test_a_variable_that_is_read_at_the_start_takes_a_new_process() -> None:
    given = dict(os.environ)
    assert may_fork({**given, "TOKENMILL_THREADS": "2"})
    assert not may_fork({**given, "OMP_NUM_THREADS": "7"}) and not may_fork({**given, "PYTHONPATH": "/elsewhere"})


COMPILES = """
from tasks.runner.own import keep_compiled_code
keep_compiled_code()  # as a stage does
import numba, tasks.core.jit as jit
numba.config.reload_config()  # as numba does before it compiles
print(numba.config.CACHE_DIR == str(jit._folder / f"compiled-{jit.digest()}"), numba.config.CACHE_LOCATOR_CLASSES)
"""


def test_it_keeps_compiled_code_where_every_process_of_this_code_does(tmp_path: Path) -> None:
    (tmp_path / "said.py").write_text(COMPILES)
    here = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = started("said", [], tmp_path, here, PLAIN)
    assert isinstance(process, Forked)
    assert process.communicate()[0] == "True tasks.core.jit.ByName\n"
    assert jit._folder == Path(os.environ["NUMBA_CACHE_DIR"])


ASKS = """
import os, pathlib, sys
from tests.forks.process import Forked
print(Forked("said", [], pathlib.Path(sys.argv[1]), dict(os.environ), ("json",)).communicate()[0], end="")
"""


def test_processes_of_a_run_share_a_server_that_ends_with_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "said.py").write_text("import os\nprint(os.getppid())")
    monkeypatch.setenv("PYTEST_XDIST_TESTRUNUID", "of this test")
    controls, begun = len(forks._controls), len(forks._started)

    def asked() -> str:
        return Forked("said", [], tmp_path, dict(os.environ), ("json",)).communicate()[0]

    first = asked()
    [server] = forks._started[begun:]
    other = subprocess.run(
        [sys.executable, "-c", ASKS, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert first == other.stdout == asked() == f"{server.pid}\n", other.stderr
    for control in forks._controls[controls:]:
        control.close()
    assert server.wait(PATIENCE) == 0
    del forks._controls[controls:], forks._started[begun:]
    forks.server.cache_clear()  # of the others, which go on, this process connects anew
