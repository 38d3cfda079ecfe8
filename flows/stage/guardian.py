"""`python -m flows.stage.guardian STAGE PID BEFORE`: looks after a stage that plain `dvc repro`, process PID, has started.

BEFORE is what dvc.lock looked like when the stage ended. This ends when DVC has recorded the stage, or has ended. What was
recorded falsely it takes out again, and says so; whoever waits for all that DVC prints waits for it, too. DVC's exit code says
nothing of it: only our own starts of DVC can make that fail.
"""

import sys
import time
from pathlib import Path

import psutil

from flows.staleness.false_entries import take_out
from tasks.runner.guardian import lock_signature
from tasks.runner.key import file_md5
from tasks.runner.lock import entries_of
from tasks.runner.recorded import claim_of, path_of
from tasks.runner.say import say


def main() -> int:
    address, pid, before, root = sys.argv[1], int(sys.argv[2]), sys.argv[3], Path.cwd()
    while not is_recorded(root, address, before) and is_alive(pid):
        time.sleep(0.02)  # between two looks: what is waited for is DVC's writing or its end
    for line in take_out(root):
        say(line, error=True)
    return 0


def is_recorded(root: Path, address: str, before: str) -> bool:
    """Whether dvc.lock has been written since it looked as `before`, and has the stage's last run in it."""
    try:
        if lock_signature(root) == before:
            return False
        claim = claim_of(entries_of((root / "dvc.lock").read_text())[address])
        return claim is not None and claim[1] == file_md5(root / path_of(address))
    except (ValueError, KeyError, OSError):  # written at this moment, or without it yet
        return False


def is_alive(pid: int) -> bool:
    """Whether this process still runs; one that only waits for its parent to take note does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    sys.exit(main())
