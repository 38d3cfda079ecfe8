"""One stage as a process of its own: `dvc repro --single-item`, its lines passed on, and its end made sure of."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.environment import environment
from tasks.core.yaml import YAMLError, read_yaml

PROGRESS = re.compile(r"progress (\S+) (\d+) (\d+) (\S+) eta=(\d+)(?: (.+))?")
STOP_SECONDS = 20
# What DVC says after every stage, and what nobody needs to read fifteen times.
CHATTER = (
    "To track the changes",
    "\tgit add",
    "To enable auto staging",
    "\tdvc config",
    "Use `dvc push`",
    "Updating lock file",
)
_running: dict[int, subprocess.Popen[str]] = {}
_guard = threading.Lock()


@dataclass(frozen=True)
class Ended:
    """How a stage ended: `how` is Ran, Restored (from DVC's cache) or Unchanged; tail: the last lines it printed."""

    code: int
    how: str
    tail: list[str] = field(default_factory=list)


def lock_entry(root: Path, address: str) -> Any:
    """What dvc.lock says of a stage; None when nothing. DVC rewrites the file in place, so a torn read is tried again."""
    path = root / "dvc.lock"
    for _ in range(100):
        try:
            return (read_yaml(path) or {}).get("stages", {}).get(address) if path.exists() else None
        except (YAMLError, AttributeError):
            continue
    raise RuntimeError(f"{path}: not valid YAML; `git checkout dvc.lock` brings back the committed one")


def timing_signature(root: Path, address: str) -> tuple[int, int] | None:
    """Changes whenever the stage's process finishes its work: only that process writes its timings."""
    path = root / "data" / "timings" / f"{address}.json"
    return (path.stat().st_mtime_ns, path.stat().st_ino) if path.exists() else None


def run_stage(root: Path, address: str, force: bool, say: Callable[[str], None], extra: dict[str, str]) -> Ended:
    """Bring one stage up to date. Its lines go to `say`; stages it depends on must be up to date already."""
    before = lock_entry(root, address), timing_signature(root, address)
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", address]
    if force:
        command.append("--force")
    if setpriv := shutil.which("setpriv"):  # the stage ends with us, however we end
        command = [setpriv, "--pdeathsig", "TERM", *command]
    process = subprocess.Popen(
        command,
        cwd=root,
        env={**environment(root), **extra},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    with _guard:
        _running[process.pid] = process
    tail: deque[str] = deque(maxlen=30)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(CHATTER) or not line.strip():
                continue
            if not PROGRESS.fullmatch(line.strip()):
                tail.append(line.rstrip())
            say(line.rstrip())
        code = process.wait()
    finally:
        with _guard:
            _running.pop(process.pid, None)
    after = lock_entry(root, address), timing_signature(root, address)
    how = "Ran" if after[1] != before[1] else "Unchanged" if after[0] == before[0] else "Restored"
    return Ended(code, how, list(tail))


def stop_all() -> None:
    """End every stage that runs: SIGTERM to its process group, so that it can checkpoint, and SIGKILL if it will not."""
    with _guard:
        processes = list(_running.values())
    for process in processes:
        _signal_group(process, signal.SIGTERM)
    for process in processes:
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        _signal_group(process, signal.SIGKILL)


def _signal_group(process: subprocess.Popen[str], number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass
