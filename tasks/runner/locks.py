"""Locks that the kernel lets go when their process ends: of a stage, a checkout, and the slots of stages that run at once."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tasks.core.process import cores
from tasks.runner.devices import works_on_a_device
from tasks.runner.own import open_lock
from tasks.runner.say import say
from tasks.runner.settings import SHARED_LOCKS, WORKERS

LOCKS = Path(".scratch/locks")


@contextmanager
def lock(name: str, folder: Path = LOCKS) -> Iterator[None]:
    """Hold the lock of this name; the kernel lets it go when the process ends, however it ends. Raises ConfigError for what is
    no lock."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / name
    with os.fdopen(open_lock(path), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{name}: waiting for another process that holds {path}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def stages_at_once() -> int:
    """TOKENMILL_WORKERS, else one on up to two cores (a stage uses them all), two above, beside those that have a GPU each."""
    return WORKERS.read() or (1 if cores() <= 2 else 2)


def takes_a_slot(meta: dict[str, Any]) -> bool:
    """Whether a stage of this `meta` is one of those that may run at once: of stages that work on a GPU there are as many as
    GPUs, unless TOKENMILL_WORKERS says how many."""
    return WORKERS.is_given() or not works_on_a_device(meta)


@contextmanager
def slot(meta: dict[str, Any]) -> Iterator[None]:
    """Hold one of as many places as stages may run at once, over all that share TOKENMILL_LOCKS: a project and its variants.
    Does nothing for a stage that takes none."""
    if not takes_a_slot(meta):
        yield
        return
    folder = Path(SHARED_LOCKS.read())
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        places = [folder / f"slot-{number}" for number in range(stages_at_once())]
        files = [held.enter_context(os.fdopen(open_lock(place), "w")) for place in places]
        for file in files:
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
        else:
            say("waiting for another stage to end (TOKENMILL_WORKERS says how many may run at once)")
            fcntl.flock(files[os.getpid() % len(files)], fcntl.LOCK_EX)
        yield
