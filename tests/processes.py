"""Processes of others, and folders in which they work, as tests look at them: any may be gone at the next look."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

# Seconds for what happens by itself: no machine is so busy that it takes longer, and a test that would wait for ever ends.
PATIENCE = 1200.0


def ended(process: psutil.Process) -> bool:
    """Whether it runs no more; one that was not yet waited for does not."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
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
