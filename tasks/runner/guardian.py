"""What looks after a stage that plain `dvc repro` has started: DVC reads parameters and files once more when the stage has
ended, and nobody is there who could tell it that they are others by then."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

from tasks.runner.graph import Entry
from tasks.runner.recorded import path_of

# Set by our own start of DVC, which holds by itself what it records to what the stage read.
HELD = "TOKENMILL_HELD"
SHELLS = ("sh", "bash", "dash", "zsh", "fish", "ksh")


def watch_over(entry: Entry) -> None:
    """Leave a process behind that takes what DVC is about to record of this stage out again if it is not what the stage read
    (flows/stage/guardian.py). Does nothing where our own start of DVC, or no DVC, has started the stage."""
    if "DVC_STAGE" not in os.environ or HELD in os.environ or path_of(entry.address) not in entry.outs:
        return
    if dvc := dvc_process():
        command = [sys.executable, "-m", "flows.stage.guardian", entry.address, str(dvc.pid), lock_signature(Path())]
        subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL)


def dvc_process() -> psutil.Process | None:
    """The process that started this one, shells left out."""
    return next((process for process in psutil.Process().parents() if process.name() not in SHELLS), None)


def lock_signature(root: Path) -> str:
    """Text that differs once DVC has written dvc.lock: its time and size."""
    path = root / "dvc.lock"
    return f"{path.stat().st_mtime_ns} {path.stat().st_size}" if path.exists() else "none"
