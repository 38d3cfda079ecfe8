"""Processes of others, and folders in which they work, as tests look at them: any may be gone at the next look."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

import psutil

# Seconds for one thing that happens by itself: the last net, so that a test of what never happens ends, and says what it waited
# for. What ends as it should takes seconds, and with four other processes computing beside two cores a minute at most: no test is
# decided by this number, and none asserts by it that something was quick.
PATIENCE = 1200.0
Found = TypeVar("Found")


class Living(Protocol):
    """A process that this one started, a Popen or a fork."""

    stdout: IO[Any] | None

    def poll(self) -> int | None: ...


def wait_for(
    happened: Callable[[], Found], *living: Living, explain: Callable[[], str] = lambda: "", every: float = 0.002
) -> Found:
    """What `happened` returns once it is true; asked again after `every` seconds, which decide nothing but how soon it is seen.
    Raises AssertionError with the explanation where one of these processes ends before, or PATIENCE does; with what it said."""
    deadline = time.monotonic() + PATIENCE
    while not (found := happened()):
        for process in living:
            if process.poll() is not None:
                said = process.stdout.read() if process.stdout else ""
                raise AssertionError(f"ended with {process.poll()} before it was so: {said}{explain()}")
        assert time.monotonic() < deadline, f"not so after {PATIENCE} s: {explain()}"
        time.sleep(every)
    return found


def has_ended(process: psutil.Process | int) -> bool:
    """Whether it, or whoever has this number, runs no more; one that was not yet waited for does not."""
    try:
        return (psutil.Process(process) if isinstance(process, int) else process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def command_of(process: psutil.Process) -> list[str]:
    """Its command, empty when it has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def files_in(folder: Path) -> Iterator[Path]:
    """The files below a folder, those left out that go meanwhile."""
    for above, _, names in os.walk(folder):
        yield from (Path(above, name) for name in names)


def bytes_of(path: Path) -> bytes:
    """What is in a file; nothing where it has gone."""
    with suppress(FileNotFoundError):
        return path.read_bytes()
    return b""
