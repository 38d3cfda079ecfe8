"""Work over many shards: each a part of its own, made anywhere in any order, kept when a killed stage goes on.

A part is a folder with what `work` wrote there and `facts.json`, the facts it returned. It gets its name once it is whole.
"""

import importlib
import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from lm.config import ConfigError
from lm.settings import RUNNER, SHARD_WORKERS, THREADS
from tasks.core.process import at_parents_end, cores, is_limited, join_audit, keep_to_limits, use_threads

Facts = dict[str, Any]
# A function of a module and one item, both of which pickle; it writes into the folder it is given and nowhere else.
Work = Callable[[Any, Path], Facts]
# (work, [(item, folder), ...]) -> the numbers of those that are done, as they are done
Runner = Callable[[Work, list[tuple[Any, Path]]], Iterator[int]]
FACTS = "facts.json"
# Shards of 64 MiB that a process must have where one takes half a second, so that starting it, two seconds, pays.
LEAST = 4


@dataclass(frozen=True)
class Part:
    """What became of one item: its folder, and what `work` returned."""

    folder: Path
    facts: Facts


def workers() -> int:
    """TOKENMILL_SHARD_WORKERS, else the cores of this machine."""
    return SHARD_WORKERS.read() or cores()


def processes(jobs: int, least: int = 1) -> int:
    """How many share so many jobs: TOKENMILL_SHARD_WORKERS, else a core each, with at least so many jobs for everyone, since
    starting a process takes two seconds."""
    return max(1, min(jobs if SHARD_WORKERS.is_given() else jobs // least, workers()))


def make_parts(
    work: Work,
    items: Sequence[Any],
    folder: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    least: int = 1,
) -> list[Part]:
    """The parts of all items, in their order, below `folder`; those that are there already are not made again. least: as of
    `processes`.

    Whoever calls vouches that the folder belongs to exactly this work on these items.
    """
    folders = [folder / f"{number:05}" for number in range(len(items))]
    missing = [number for number, path in enumerate(folders) if not (path / FACTS).exists()]
    jobs = [(items[number], folders[number]) for number in missing]
    done = len(items) - len(missing)
    for _ in runner(len(jobs), least)(work, jobs) if jobs else ():
        done += 1
        progress(done, len(items))
    return [Part(path, json.loads((path / FACTS).read_text())) for path in folders]


def make_part(work: Work, item: Any, folder: Path) -> None:
    """Do the work in a folder beside its place, and put that there whole, unless somebody else has in the meantime: a worker
    on another machine that was taken for lost."""
    unfinished = folder.with_name(f".{folder.name}.{socket.gethostname()}.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    facts = work(item, unfinished)
    (unfinished / FACTS).write_text(json.dumps(facts, sort_keys=True))
    if (folder / FACTS).exists():
        shutil.rmtree(unfinished)
        return
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(unfinished, folder)


def link_or_copy(made: Path, place: Path) -> None:
    """Give a file of a part another name, too: a part that lost it would be taken for whole by a killed stage's next run."""
    try:
        os.link(made, place)
    except OSError:  # on another device
        shutil.copyfile(made, place)


def runner(jobs: int, least: int) -> Runner:
    """Who does the work: this process where that is all there is to do, processes of this machine, or what
    TOKENMILL_RUNNER names as `module:function`, such as flows.shards:on_dask."""
    if name := RUNNER.read():
        module, _, function = name.partition(":")
        try:
            return getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"{RUNNER.name}: {name!r} is no module:function: {error}") from None
    return first_apart if jobs > 1 and is_limited() else local_runner(processes(jobs, least))


def local_runner(count: int) -> Runner:
    """Runner that uses `count` processes of this machine."""
    return partial(in_processes, count=count) if count > 1 else in_this_process


def first_apart(work: Work, jobs: list[tuple[Any, Path]]) -> Iterator[int]:
    """The first part in a process of its own: what compiling takes, up to 220 MB, goes with it, and the code stays on disk."""
    yield from in_processes(work, jobs[:1], 1)
    for number in local_runner(processes(len(jobs) - 1))(work, jobs[1:]):
        yield number + 1


def in_this_process(work: Work, jobs: list[tuple[Any, Path]]) -> Iterator[int]:
    for number, (item, folder) in enumerate(jobs):
        make_part(work, item, folder)
        yield number


def in_processes(work: Work, jobs: list[tuple[Any, Path]], count: int) -> Iterator[int]:
    """Started anew rather than forked: Arrow's and numba's threads do not survive a fork."""
    threads = max(1, cores() // count)
    with ProcessPoolExecutor(count, get_context("spawn"), _begin, (threads, os.getpid())) as pool, _ends_with_us(pool):
        numbers = {pool.submit(make_part, work, item, folder): number for number, (item, folder) in enumerate(jobs)}
        for future in as_completed(numbers):
            future.result()
            yield numbers[future]


@contextmanager
def _ends_with_us(pool: ProcessPoolExecutor) -> Iterator[None]:
    """Whatever ends the work early ends the processes too: what they would still finish nobody waits for."""
    try:
        yield
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.kill()
        pool.shutdown(wait=True, cancel_futures=True)
        raise


def _begin(threads: int, parent: int) -> None:
    at_parents_end(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it ended before the kernel was asked
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ[THREADS.name] = str(threads)
    use_threads()
    keep_to_limits()
    join_audit()
