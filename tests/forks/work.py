"""Two other processes that share a stage's parts, for tests that ask whether that leaves a trace.

`tasks.core.parts.in_processes` starts an interpreter for each of them, two CPU seconds every time that a stage has parts to
make; tests/core/test_parts.py has that one. These two are forked once, off the server that holds the libraries, and stay for all
tests of this process: what they get is pickled, no patch of this process is seen there, and the first jobs are told last.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tasks.core.parts import Work, make_part
from tasks.core.process import keep_to_limits, use_threads
from tests.forks.process import PLAIN, started
from tests.imports import ROOT

PROCESSES = 2


def share_among_two(patched: pytest.MonkeyPatch) -> None:
    """From here on two other processes make the parts of stages."""
    patched.setenv("TOKENMILL_SHARD_WORKERS", str(PROCESSES))
    patched.setenv("TOKENMILL_RUNNER", "tests.forks.work:in_others")


def in_others(work: Work, jobs: list[tuple[Any, Path]]) -> Iterator[int]:
    """A tasks.core.parts.Runner. Raises what the work raises there."""
    environment = {**os.environ, "TOKENMILL_THREADS": "1"}
    for number, other in enumerate(others()):
        other.send((environment, work, jobs[number::PROCESSES]))
    errors = [error for error in [other.recv() for other in others()] if error is not None]
    if errors:
        raise errors[0]
    yield from reversed(range(len(jobs)))


@cache
def others() -> list[Connection]:
    """The two, which end when this process has."""
    found = []
    with TemporaryDirectory() as folder, Listener(str(Path(folder) / "socket"), "AF_UNIX") as listener:
        for _ in range(PROCESSES):
            started("tests.forks.work", [str(listener.address)], ROOT, dict(os.environ), PLAIN)
            found.append(listener.accept())
    return found


def serve(ours: Connection) -> None:
    """Do as is asked, until nobody asks any more."""
    with suppress(EOFError):
        while True:
            environment, work, jobs = ours.recv()
            os.environ.clear()
            os.environ.update(environment)
            use_threads()
            keep_to_limits()
            try:
                for item, folder in jobs:
                    make_part(work, item, folder)
                ours.send(None)
            except Exception as error:
                ours.send(error)


if __name__ == "__main__":
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # nobody reads what is printed
        os.dup2(nowhere, descriptor)
    serve(Client(sys.argv[1], "AF_UNIX"))
