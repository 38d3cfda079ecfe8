"""DVC's table of the paths that its processes read and write (.dvc/tmp/rwlock), kept true: no run fails for one that is gone.

DVC refuses a path for as long as a process of the number in the table exists: also one that has ended and that nobody has
waited for yet, and another that was given the number since, as after a restart of a container.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from dvc.config import Config
from dvc.lock import LockBase, make_lock

from lm.files import replacing

# How much younger than it is a process may look: the kernel tells in whole seconds when it was booted.
BOOT_SECONDS = 2.0
TABLE = Path(".dvc/tmp/rwlock")


class Use(NamedTuple):
    """A path that a process reads or writes, by DVC's table."""

    path: str
    writes: bool
    pid: int
    command: str


def await_free(root: Path, say: Callable[[str], None]) -> None:
    """Return once no other process of DVC uses a path of this checkout; `say` gets a line for each that is waited for.

    For who holds the checkout (flows/pipeline/run_lock.py): what is left then is a DVC that ends with a killed run, or one that
    somebody started by hand.
    """
    said = set[int]()
    while uses := release_ended(root):
        for use in uses:
            if use.pid not in said:
                path = os.path.relpath(use.path, root)
                say(f"waiting for `{use.command}` (process {use.pid}) to end, which uses {path}")
            said.add(use.pid)
        time.sleep(0.1)


def release_ended(root: Path) -> list[Use]:
    """Take what has ended out of the table; one that a kill or a full disk has cut off is removed. Returns what is left."""
    path = root / TABLE
    if read_table(path) == []:
        return []
    with _guard(path):
        uses = read_table(path)
        if uses is None:
            path.unlink(missing_ok=True)
            return []
        written = path.stat().st_mtime if uses else 0.0
        left = [use for use in uses if goes_on(use, written)]
        if left != uses:
            with replacing(path) as unfinished:
                unfinished.write_text(json.dumps(as_table(left)))
                os.utime(unfinished, (written, written))  # those that are still in it began before this time
    return left


def goes_on(use: Use, written: float) -> bool:
    """Whether the process that the entry means still runs: not one of its number that has another command and began after the
    table was written."""
    if use.pid == os.getpid():
        return False  # this one uses nothing while it asks: its number was another's
    try:
        process = psutil.Process(use.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return use.command in " ".join(process.cmdline()) or process.create_time() <= written + BOOT_SECONDS
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # another user's
        return True


def read_table(path: Path) -> list[Use] | None:
    """The entries, none where there is no table; None where it cannot be read."""
    try:
        table = json.loads(path.read_text())
        writers = [Use(name, True, user["pid"], user["cmd"]) for name, user in table.get("write", {}).items()]
        readers = table.get("read", {}).items()
        return writers + [Use(name, False, user["pid"], user["cmd"]) for name, users in readers for user in users]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def as_table(uses: list[Use]) -> dict[str, Any]:
    """The table of these uses as DVC writes it."""
    table: dict[str, Any] = {"write": {}, "read": {}}
    for use in uses:
        user = {"pid": use.pid, "cmd": use.command}
        if use.writes:
            table["write"][use.path] = user
        else:
            table["read"].setdefault(use.path, []).append(user)
    return table


def _guard(path: Path) -> LockBase:
    """The lock under which DVC itself edits the table."""
    hardlinks = Config(str(path.parent.parent))["core"].get("hardlink_lock", False)
    guard = path.with_name("rwlock.lock")
    return make_lock(str(guard), tmp_dir=str(path.parent), hardlink_lock=hardlinks, wait=True)
