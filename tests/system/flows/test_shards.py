"""Work over shards on a real Dask cluster of two processes: the same bytes as in this one, whatever happens to a worker."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest

from flows.servers.temporary import temporary_server
from lm.config import ConfigError
from tasks.core.config import load
from tasks.core.log import Log
from tasks.core.parts import Facts, Work, make_parts
from tasks.core.tables import shard_path, write_table
from tasks.filter.stage import FilterConfig
from tasks.filter.stage import run as run_filter
from tests.processes import PATIENCE
from tests.project import ROOT, TINY, digest, make_project, run_stage


def square(item: int, folder: Path) -> Facts:
    (folder / "square").write_text(f"{item * item}\n")
    return {"square": item * item}


def refuse(item: int, folder: Path) -> Facts:
    if item == 3:
        raise ConfigError("item 3: cannot be used; leave it out")
    if item == 4:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "full"))
    return square(item, folder)


def die_first(item: tuple[int, Path], folder: Path) -> Facts:
    """The first worker that comes to number 1 is killed with half of it written."""
    number, seen = item
    try:
        if number == 1:
            seen.mkdir()
            (folder / "half").write_text("of it")
            os.kill(os.getpid(), signal.SIGKILL)
    except FileExistsError:
        pass
    return square(number, folder)


def die_always(item: int, folder: Path) -> Facts:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def filter_shard(item: Path, folder: Path) -> Facts:
    """A real stage's work on one shard: data/filter of it."""
    data = folder / "data"
    shutil.copyfile(item, shard_path(data / "dedup" / "documents", 0))
    (data / "filter").mkdir()
    return run_filter(load("filter", FilterConfig, TINY), data, Log())


def wait(item: int, folder: Path) -> Facts:
    print("begun", flush=True)
    time.sleep(1e6)  # longer than PATIENCE: it ends for no other reason than the one that is tested
    return {}


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """These set, and all as it was afterwards: the runner sets what Prefect reads."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What to set for a cluster that runs already, of two workers."""
    from distributed import LocalCluster

    with LocalCluster(2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster:
        home = str(tmp_path_factory.mktemp("prefect"))
        chosen = {"TOKENMILL_DASK": cluster.scheduler_address, "TOKENMILL_RUNNER": "flows.shards:on_dask"}
        yield chosen | {"PREFECT_HOME": home, "PREFECT_API_URL": ""}


def here_and_there(work: Work, items: Sequence[Any], folder: Path, dask: dict[str, str]) -> tuple[str, str]:
    """Digests of the parts made in this process and by the cluster."""
    with environment(TOKENMILL_RUNNER="tasks.core.parts:in_this_process"):
        make_parts(work, items, folder / "here")
    with environment(**dask):
        make_parts(work, items, folder / "there")
    return digest(folder / "here"), digest(folder / "there")


def test_two_workers_make_the_parts_of_one_process(dask: dict[str, str], tmp_path: Path) -> None:
    said: list[tuple[int, int]] = []
    with environment(**dask):
        parts = make_parts(square, [5, 6, 7], tmp_path / "said", lambda done, total: said.append((done, total)))
    assert [part.facts["square"] for part in parts] == [25, 36, 49] and said == [(1, 3), (2, 3), (3, 3)]
    here, there = here_and_there(square, list(range(20)), tmp_path, dask)
    assert here == there


def test_a_stage_by_shards_gives_the_bytes_of_one_process(dask: dict[str, str], tmp_path: Path) -> None:
    for number in range(4):
        texts = [f"Document {number}.{row} has some words in it.\n" * (row % 5) for row in range(50)]
        ids = [f"{number}.{row}" for row in range(50)]
        columns = {"id": ids, "source": ["s"] * 50, "text": pa.array(texts, pa.large_string()), "meta": ["{}"] * 50}
        write_table(shard_path(tmp_path / "documents", number), pa.table(columns))
    here, there = here_and_there(filter_shard, sorted((tmp_path / "documents").iterdir()), tmp_path, dask)
    assert here == there


def test_a_killed_worker_costs_nothing_but_its_part(dask: dict[str, str], tmp_path: Path) -> None:
    items = [(number, tmp_path / "seen") for number in range(6)]
    with environment(**dask):
        parts = make_parts(die_first, items, tmp_path / "parts")
    assert (tmp_path / "seen").exists()  # somebody was killed
    assert [part.facts["square"] for part in parts] == [0, 1, 4, 9, 16, 25]
    assert [sorted(path.name for path in part.folder.iterdir()) for part in parts] == [["facts.json", "square"]] * 6


def test_a_part_that_ends_every_worker_is_named(dask: dict[str, str], tmp_path: Path) -> None:
    with environment(**dask), pytest.raises(RuntimeError, match="00000: every worker that began it was lost"):
        make_parts(die_always, [1], tmp_path)


@pytest.mark.parametrize(("item", "kind"), [(3, ConfigError), (4, OSError)])
def test_an_error_arrives_as_it_was_raised(dask: dict[str, str], tmp_path: Path, item: int, kind: type) -> None:
    with environment(**dask), pytest.raises(kind) as caught:
        make_parts(refuse, [1, item, 2], tmp_path)
    if isinstance(caught.value, OSError):
        assert caught.value.errno == errno.ENOSPC and caught.value.filename.endswith("full")
    else:
        assert str(caught.value) == "item 3: cannot be used; leave it out"
    assert not (tmp_path / "00001").exists()


def test_dedup_and_filter_as_processes_of_dvc(tmp_path: Path, dask: dict[str, str]) -> None:
    """Each starts a cluster of its own, and finds the server that its environment names."""
    project = make_project(tmp_path, TINY)
    run_stage(project, "ingest")
    found = []
    with environment(PREFECT_HOME=dask["PREFECT_HOME"], PREFECT_API_URL=""):
        served = temporary_server().wait() | {"TOKENMILL_RUNNER": "flows.shards:on_dask"}
    for chosen in (served, {"TOKENMILL_RUNNER": "tasks.core.parts:in_this_process"}):
        for stage in ("dedup", "filter"):
            run_stage(project, stage, PYTHONPATH=str(ROOT), TOKENMILL_SHARD_WORKERS="2", **chosen)
        found.append([digest(project / "data" / stage) for stage in ("dedup", "filter")])
    assert found[0] == found[1]


def test_nothing_outlives_a_killed_stage(tmp_path: Path, dask: dict[str, str]) -> None:
    with environment(PREFECT_HOME=dask["PREFECT_HOME"], PREFECT_API_URL=""):
        served = temporary_server().wait()
    variables = served | {"TOKENMILL_RUNNER": dask["TOKENMILL_RUNNER"], "TOKENMILL_SHARD_WORKERS": "2"}
    command = [sys.executable, "-m", "tests.system.flows.test_shards", str(tmp_path / "parts")]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.kill()
    process.wait()
    gone, alive = psutil.wait_procs(children, timeout=PATIENCE)
    assert alive == []


if __name__ == "__main__":
    make_parts(wait, [0, 1], Path(sys.argv[1]))
