"""One run at a time in a checkout: two would write the same params.yaml, dvc.lock and data/."""

import fcntl
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.runner.locks import LOCKS, lock

# The label of a flow run that says in which checkout it is: others may be at the same server
LABEL = "tokenmill.checkout"
_held: set[Path] = set()


def checkout(root: Path) -> str:
    """What that label says of this one, on this machine."""
    return f"{socket.gethostname()}:{root.resolve()}"


def is_going_on(root: Path) -> bool:
    """Whether some process holds the checkout for a run now."""
    path = root / LOCKS / "run"
    if not path.exists():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def one_run(root: Path) -> Iterator[None]:
    """Wait until no other run is going on there; the kernel ends the claim with the process. Free for who has it already."""
    folder = (root / LOCKS).resolve()
    if folder in _held:
        yield
        return
    with lock("run", folder):
        _held.add(folder)
        try:
            yield
        finally:
            _held.discard(folder)
