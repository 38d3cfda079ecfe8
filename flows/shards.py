"""Work over shards past one machine: each part a Prefect task on a Dask cluster. TOKENMILL_RUNNER=flows.shards:on_dask.

Nothing here decides what a part holds: that is tasks/core/parts.py, the same on every runner.
"""

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from flows.environment import environment
from flows.servers.answers import server_answers
from flows.servers.prefect_and_mlflow import HOST
from flows.servers.temporary import temporary_server
from flows.settings import DASK
from lm.config import ConfigError
from lm.settings import THREADS
from tasks.core.parts import FACTS, Work, make_part, workers
from tasks.core.process import cores


def on_dask(work: Work, jobs: list[tuple[Any, Path]]) -> Iterator[int]:
    """The numbers of the jobs as they are done, by the workers of the Dask cluster at TOKENMILL_DASK, else by
    TOKENMILL_SHARD_WORKERS processes of this machine that end with the call.

    A part whose worker is lost is made by another one; what an error says arrives as it was raised, and ends the work.
    """
    os.environ.update(environment(Path.cwd()))  # before Prefect reads its settings
    from distributed.scheduler import KilledWorker
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    from prefect.futures import as_completed

    part = task(name="part", cache_policy=NO_CACHE, persist_result=False)(make_part_there)
    work, root = importable(work), Path.cwd()

    @flow(name=work.__name__, task_runner=cluster(len(jobs)), persist_result=False, validate_parameters=False)
    def shards() -> Iterator[int]:
        numbers = {part.submit(work, item, folder.absolute(), root): n for n, (item, folder) in enumerate(jobs)}
        for future in as_completed(list(numbers)):
            try:
                future.result()
            except KilledWorker:
                raise RuntimeError(
                    f"{jobs[numbers[future]][1]}: every worker that began it was lost; it may want more memory than they have"
                ) from None
            yield numbers[future]

    with prefect_api():
        yield from shards()


def make_part_there(work: Work, item: Any, folder: Path, root: Path) -> None:
    """The part, on a worker: in the project's folder, and only if no worker that was taken for lost has made it.

    Dask makes again what a lost worker had finished.
    """
    if not root.is_dir():
        raise ConfigError(f"{socket.gethostname()}: has no folder {root}: workers need the project at the same path")
    os.chdir(root)
    if not (folder / FACTS).exists():
        make_part(work, item, folder)


def importable(work: Work) -> Work:
    """The function by the name that other processes know: a stage run by `python -m` is called __main__ here."""
    spec = sys.modules[work.__module__].__spec__
    return getattr(import_module(spec.name), work.__name__) if work.__module__ == "__main__" and spec else work


def cluster(jobs: int) -> Any:
    """Where the tasks run. One thread a worker, since a part uses the cores it is given itself; memory is not watched, since
    a part keeps to its budget and the kernel says when it does not."""
    from distributed import Security
    from prefect_dask import DaskTaskRunner

    if address := DASK.read():
        return DaskTaskRunner(address=address)
    count = min(jobs, workers())
    return DaskTaskRunner(
        cluster_kwargs={
            "n_workers": count,
            "threads_per_worker": 1,
            "host": HOST,
            # whoever reaches a scheduler without certificates has its workers run any code
            "security": Security.temporary(),
            "dashboard_address": None,
            "local_directory": str(Path(".scratch/dask").absolute()),
            "memory_limit": 0,
            "silence_logs": logging.CRITICAL,
            "env": {THREADS.name: str(max(1, cores() // count))},
        }
    )


@contextmanager
def prefect_api() -> Iterator[None]:
    """Prefect's settings name a server that answers: that of PREFECT_API_URL, else one of this process. Without one, every
    worker would start a server for itself."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    url = os.environ.get("PREFECT_API_URL", "")
    if url and server_answers(url):
        settings = {PREFECT_API_URL: url}
    else:
        named = temporary_server().wait()
        settings = {setting: named[setting.name] for setting in (PREFECT_API_URL, PREFECT_API_AUTH_STRING)}
    with temporary_settings(settings):
        yield
