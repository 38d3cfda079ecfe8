"""One stage as a process of its own: `dvc repro --single-item`, its lines passed on, and its end made sure of."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from flows.environment import environment
from flows.settings import STOP
from flows.stage.ready import DVC_CLI, Forked, forked
from tasks.runner.key import locked_key
from tasks.runner.lock import lock_entry
from tasks.runner.timings import restore_timings

PROGRESS = re.compile(r"progress (\S+) (\d+) (\d+) (\S+) eta=(\d+)(?: (.+))?")
# Exit codes that another try may mend: the stage was killed, not wrong. 2 is a mistake in the parameters or the input.
TRANSIENT_CODES = {137, 143}
INTERRUPTED = 130
# DVC itself ends with 255 whatever the stage's code was, and says that.
STAGE_CODE = re.compile(r"exited with (-?\d+)$")
# What DVC says after every stage, and what nobody needs to read fifteen times.
CHATTER = (
    "To track the changes",
    "\tgit add",
    "To enable auto staging",
    "\tdvc config",
    "Use `dvc push`",
    "Updating lock file",
)
Process = subprocess.Popen[str] | Forked
_running: dict[int, Process] = {}
_asked: set[int] = set()
_guard = threading.Lock()
_stopping = threading.Event()


@dataclass(frozen=True)
class Ended:
    """How a stage ended: `how` is Ran, Restored (from DVC's cache) or Unchanged; tail: the last lines it printed."""

    code: int
    how: str
    tail: list[str] = field(default_factory=list)


def timing_signature(root: Path, address: str) -> tuple[int, int] | None:
    """Changes whenever the stage's process finishes its work: only that process writes its timings."""
    path = root / "data" / "timings" / f"{address}.json"
    return (path.stat().st_mtime_ns, path.stat().st_ino) if path.exists() else None


def begin(command: Sequence[str], root: Path, variables: dict[str, str]) -> subprocess.Popen[str]:
    """A command in a session of its own, whose two outputs come by one pipe."""
    if setpriv := shutil.which("setpriv"):  # the stage ends with us, however we end
        command = [setpriv, "--pdeathsig", "TERM", *command]
    return subprocess.Popen(
        command,
        cwd=root,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def begin_here(words: Sequence[str], root: Path, variables: dict[str, str]) -> Process:
    """DVC on this machine; by path, as the project may be of a revision without it."""
    return forked(words, root, variables) or begin([sys.executable, "-P", str(DVC_CLI), *words], root, variables)


def exit_code(code: int, tail: Sequence[str]) -> int:
    """The stage's exit code as a shell gives it, out of that of the process which ran it and its last lines."""
    found = [int(match[1]) for match in map(STAGE_CODE.search, tail) if match] if code == 255 else []
    code = found[-1] if found else code
    return 128 - code if code < 0 else code


def run_stage(
    root: Path,
    address: str,
    force: bool,
    say: Callable[[str], None],
    extra: dict[str, str],
    command: Sequence[str] = (),
    alone: bool = True,
) -> Ended:
    """Bring one stage up to date, by `dvc repro` or by another command that does. Its lines go to `say`. alone: stages it
    depends on are up to date already; else they are brought up to date before it, by one process of DVC."""
    STOP.read()  # a mistake in it is said before a stage begins, and not as it is to end
    before = lock_entry(root, address), timing_signature(root, address)
    repro = ["--wait-for-lock", "repro", *(["--single-item"] if alone else []), address]
    words = [*(command or repro), *(["--force"] if force else [])]
    if _stopping.is_set():  # a stage that was ended must not be tried again for having been ended
        return Ended(INTERRUPTED, "Stopped")
    # a server that still imports lets this wait, and those who end others must not
    process = (begin if command else begin_here)(words, root, {**environment(root), **extra})
    with _guard:
        _running[process.pid] = process
        late = _stopping.is_set()
    if late:
        _end([process])
    tail: deque[str] = deque(maxlen=30)
    with process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(CHATTER) or not line.strip():
                    continue
                if not PROGRESS.fullmatch(line.strip()):
                    tail.append(line.rstrip())
                say(line.rstrip())
            code = process.wait()
        except BaseException:  # a signal to the thread that waits here
            _end([process])
            raise
        finally:
            with _guard:
                _running.pop(process.pid, None)
                _asked.discard(process.pid)
    after = lock_entry(root, address), timing_signature(root, address)
    how = "Ran" if after[1] != before[1] else "Unchanged" if after[0] == before[0] else "Restored"
    if how == "Restored" and after[0]:
        restore_timings(root, address, locked_key(after[0]))
    return Ended(exit_code(code, tail), how, list(tail))


def stop_all() -> None:
    """End every stage that runs, and let none begin from now on."""
    with _guard:
        _stopping.set()
        processes = list(_running.values())
    _end(processes)


def stopping() -> bool:
    """Whether stages have been told to end, so that one that ended badly has only done as it was told."""
    return _stopping.is_set()


def _end(processes: list[Process]) -> None:
    """SIGTERM to the process group of each, so that it can checkpoint, and SIGKILL if it will not. DVC itself ends at once, so
    what counts is the last process of the group. A group is asked once: a second SIGTERM would cut its saving short."""
    with _guard:
        new = [group.pid for group in processes if group.pid not in _asked]
        _asked.update(new)
    for pid in new:
        _signal_group(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP.read()
    for group in processes:
        while is_alive(group.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        _signal_group(group.pid, signal.SIGKILL)


def is_alive(group: int) -> bool:
    """Whether a process of this group still runs; one that only waits for its parent to take note does not."""
    for process in psutil.process_iter(["status"]):
        try:
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                return True
        except ProcessLookupError:
            continue
    return False


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass
