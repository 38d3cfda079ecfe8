"""kill -9 of ingest while it reads, and while it writes shards: the restarted stage makes what a whole one makes."""

import json
import os
import random
import signal
from pathlib import Path

import psutil
import pytest

from tests.processes import PATIENCE, wait_for
from tests.project import TINY, count_parts_made, digest, make_project, run_stage, start_stage

FILES = 6


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six files of 1 MB, some rows of which share an id."""
    sources = [{"name": "jsonl", "path": "*.jsonl", "label": "lines"}]
    params = {**TINY, "ingest": {"folder": "data/raw", "max_bytes": 1 << 40, "sources": sources}}
    folder = make_project(tmp_path_factory.mktemp("project"), params)
    rnd = random.Random(0)
    for number in range(FILES):
        with (folder / "data" / "raw" / f"{number}.jsonl").open("w") as file:
            for each in range(100):
                text = f"{number} {each} " + " ".join(rnd.choices(["ash", "birch", "cedar", "elm"], k=2000))
                name = f"{number}-{each}" if each % 10 else f"shared-{each}"
                file.write(json.dumps({"id": name, "text": text}) + "\n")
    return folder


def kill_at(project: Path, work: str, count: int, workers: str) -> bool:
    """SIGKILL the stage once so many parts of this work are whole; false where it ended before."""
    process = start_stage(project, "ingest", TOKENMILL_SHARD_WORKERS=workers, TOKENMILL_MEMORY="64")
    wait_for(lambda: count_parts_made(project, "ingest", f"{work}*") >= count or process.poll() is not None)
    if process.poll() is not None:
        return False
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    psutil.wait_procs(children, timeout=PATIENCE)
    return True


def test_killed_and_restarted_equals_whole(project: Path) -> None:
    run_stage(project, "ingest", TOKENMILL_SHARD_WORKERS="1")
    out = project / "data" / "ingest"
    whole = digest(out)
    killed = 0
    for work, workers in (("read", "1"), ("renumber", "2"), ("shards", "1")):
        killed += kill_at(project, work, 1, workers)
        assert digest(out) == whole, "a killed stage touched the output"
    assert killed, "no kill met the stage at work"
    run_stage(project, "ingest", TOKENMILL_SHARD_WORKERS="2", TOKENMILL_MEMORY="48")
    assert digest(out) == whole
    assert not list((project / ".scratch" / "ingest").glob("*/parts")), "a finished stage left its parts"
