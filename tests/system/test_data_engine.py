"""The five data stages as one: the same bytes from any layout of the input, and after any kill; nothing half made on a full disk."""

import gzip
import json
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from tests.project import DATA_STAGES, TINY, digest, make_project, run_stage, start_stage
from tests.small_disk import small_disk

PARAMS = {
    **TINY,
    "ingest": {
        "folder": "data/raw",
        "max_bytes": 10_000_000,
        "sources": [{"name": "jsonl", "label": "texts", "path": "*.jsonl*"}],
    },
}
WORDS = [f"word{n}" for n in range(500)]


def rows(count: int) -> list[bytes]:
    """Lines of JSON, a third of them copies; half have no id of their own."""
    chance = random.Random(0)
    texts = [" ".join(chance.choices(WORDS, k=chance.randint(5, 200))) for _ in range(count)]
    texts = [chance.choice(texts) if chance.random() < 0.3 else text for text in texts]
    return [
        json.dumps({"text": text, **({"id": f"row-{n}"} if n % 2 else {})}).encode() + b"\n"
        for n, text in enumerate(texts)
    ]


def lay_out(project: Path, lines: list[bytes], how: str) -> None:
    """The same rows in data/raw as one file; or in another order, in three, each compressed in its own way."""
    raw = project / "data" / "raw"
    if how == "one file":
        (raw / "a.jsonl").write_bytes(b"".join(lines))
        return
    lines = random.Random(1).sample(lines, len(lines))
    third = len(lines) // 3
    (raw / "c.jsonl").write_bytes(b"".join(lines[:third]))
    (raw / "b.jsonl.gz").write_bytes(gzip.compress(b"".join(lines[third : 2 * third])))
    (raw / "a.jsonl.zst").write_bytes(zstandard.compress(b"".join(lines[2 * third :])))


def digests(project: Path) -> dict[str, str]:
    """Of what each stage hands on; where ingest read a document is a matter of the layout."""
    folders = {stage: f"{stage}/documents" if stage == "ingest" else stage for stage in DATA_STAGES}
    return {stage: digest(project / "data" / folder) for stage, folder in folders.items()}


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    return rows(1500)


@pytest.fixture(scope="module")
def whole(lines: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = make_project(tmp_path_factory.mktemp("whole"), PARAMS)
    lay_out(project, lines, "one file")
    for stage in DATA_STAGES:
        run_stage(project, stage)
    return project


@pytest.mark.parametrize("workers", ["1", "2"])
def test_permuted_split_and_compressed_rows_give_the_same_bytes(
    lines: list[bytes], whole: Path, tmp_path: Path, workers: str
) -> None:
    project = make_project(tmp_path, PARAMS)
    lay_out(project, lines, "three files")
    for stage in DATA_STAGES:
        run_stage(project, stage, TOKENMILL_SHARD_WORKERS=workers, TOKENMILL_THREADS=workers, TOKENMILL_MEMORY="200")
    assert digests(project) == digests(whole)


def test_twenty_kills_at_random_moments_leave_no_trace(lines: list[bytes], whole: Path, tmp_path: Path) -> None:
    project, chance = make_project(tmp_path, PARAMS), random.Random(0)
    lay_out(project, lines, "three files")
    for stage in DATA_STAGES:
        began = time.monotonic()
        run_stage(project, stage)
        seconds = time.monotonic() - began
        for _ in range(4):
            shutil.rmtree(project / "data" / stage)
            process = start_stage(project, stage)
            try:
                process.wait(chance.uniform(0.3, 1.0) * seconds)
            except subprocess.TimeoutExpired:
                process.kill()  # at an instant that chance chose: what is tested is that any will do
            process.communicate()
            run_stage(project, stage)
    assert digests(project) == digests(whole)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "24m") as folder:
        yield folder


@pytest.mark.parametrize("stage", DATA_STAGES)
def test_a_full_disk_is_said_and_leaves_nothing_half_made(whole: Path, disk: Path, stage: str) -> None:
    project = make_project(disk, PARAMS)
    before = DATA_STAGES[: DATA_STAGES.index(stage)]
    shutil.copytree(whole / "data" / "raw", project / "data" / "raw", dirs_exist_ok=True)
    for folder in before:
        (project / "data" / folder).symlink_to(whole / "data" / folder)
    fill = project / "fill"
    fill.write_bytes(b"x" * (shutil.disk_usage(disk).free - 4096))
    process = start_stage(project, stage)
    printed, _ = process.communicate()
    assert process.returncode == 1 and "make room and run it again" in printed, printed
    made = project / "data" / stage
    assert not made.exists() or digest(made) == digest(whole / "data" / stage)  # full when it was the metrics' turn
    fill.unlink()
    run_stage(project, stage)
    assert digest(project / "data" / stage) == digest(whole / "data" / stage)
