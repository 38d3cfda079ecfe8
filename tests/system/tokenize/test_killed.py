"""The stage as a process: the same bytes by any number of threads, after a kill and after a full disk."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tasks.core.tables import shard_path, write_table
from tests.processes import wait_for
from tests.project import ROOT, TINY, digest, make_project, parts_made, run_stage, start_stage
from tests.tokenize.test_stage import TEXTS, table_of

PARAMS = {**TINY, "tokenize": {"method": {"name": "bpe", "vocab_size": 400}, "held_out_fraction": 0.1}}
SHARDS = 8


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_project(tmp_path_factory.mktemp("project"), PARAMS)
    table, size = table_of([text * 50 for text in TEXTS]), len(TEXTS) // SHARDS
    for number in range(SHARDS):
        rows = table.slice(number * size, size)
        write_table(shard_path(folder / "data" / "filter" / "documents", number), rows)
    return folder


@pytest.fixture(scope="module")
def made(project: Path) -> str:
    """The digest of the stage's output in the project, by one thread, never interrupted."""
    run_stage(project, "tokenize")
    found = digest(project / "data" / "tokenize")
    shutil.rmtree(project / "data" / "tokenize")
    return found


def test_threads_change_nothing(project: Path, made: str) -> None:
    """What is read once in a process needs a process of its own: not one that forks from a server of libraries."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TOKENMILL_TRACKING": "off", "TOKENMILL_THREADS": "3"}
    subprocess.run([sys.executable, "-m", "tasks.runner", "tokenize"], cwd=project, env=environment, check=True)
    assert digest(project / "data" / "tokenize") == made
    shutil.rmtree(project / "data" / "tokenize")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_killed_and_started_again_equals_whole(project: Path, made: str, workers: str) -> None:
    """Eight parts each of the survey, the grams, the search and the encoding, and between them one table, another and the
    tokenizer: kills in each, and between."""
    for count in (3, 12, 20, 30):
        process = start_stage(project, "tokenize", TOKENMILL_SHARD_WORKERS=workers)
        wait_for(lambda p=process, n=count: parts_made(project, "tokenize") >= n or p.poll() is not None)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == -signal.SIGKILL:
            assert not (project / "data" / "tokenize").exists(), "a killed stage left an output"
    run_stage(project, "tokenize", TOKENMILL_SHARD_WORKERS=workers)
    assert digest(project / "data" / "tokenize") == made
    shutil.rmtree(project / "data" / "tokenize")


@pytest.mark.parametrize("limit", [60_000, 200_000])
def test_a_full_disk_is_an_error_and_leaves_nothing(project: Path, made: str, limit: int) -> None:
    """No file may grow beyond the limit: that of the encoded shards for the lower one, that of tokens.npy for the other."""
    program = [sys.executable, "-m", "tasks.runner", "tokenize"]
    environment = {**os.environ, "TOKENMILL_TRACKING": "off", "TOKENMILL_SHARD_WORKERS": "1"}
    ended = subprocess.run(
        program,
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert ended.returncode == 1 and "File too large" in ended.stderr
    assert not (project / "data" / "tokenize").exists()
    run_stage(project, "tokenize", TOKENMILL_SHARD_WORKERS="1")
    assert digest(project / "data" / "tokenize") == made
    tokens = np.load(project / "data" / "tokenize" / "tokens.npy")
    assert tokens.nbytes > 200_000 > tokens.nbytes / SHARDS > 60_000, "the limits are to fall into both steps"
    shutil.rmtree(project / "data" / "tokenize")
