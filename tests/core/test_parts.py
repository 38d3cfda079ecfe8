"""Work over shards: the same parts in this process and in others, and none made twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lm.config import ConfigError
from tasks.core.log import Log
from tasks.core.parts import make_part, make_parts
from tests.processes import wait_for
from tests.project import ROOT, digest


def double(item: int, folder: Path) -> dict[str, int]:
    (folder / "twice").write_text(str(2 * item))
    return {"twice": 2 * item, "process": os.getpid()}


def refuse(item: int, folder: Path) -> dict[str, int]:
    if item == 3:
        raise ConfigError("item 3: cannot be used")
    return double(item, folder)


def wait(item: int, folder: Path) -> dict[str, int]:
    if item:
        time.sleep(1e6)  # longer than PATIENCE: it ends for no other reason than the one that is tested
    return double(item, folder)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_parts_come_in_the_order_of_their_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    monkeypatch.setenv("TOKENMILL_SHARD_WORKERS", workers)
    said: list[tuple[int, int]] = []
    parts = make_parts(double, [5, 6, 7], tmp_path, lambda done, total: said.append((done, total)))
    assert [part.facts["twice"] for part in parts] == [10, 12, 14] and said == [(1, 3), (2, 3), (3, 3)]
    assert [(part.folder / "twice").read_text() for part in parts] == ["10", "12", "14"]
    assert (os.getpid() in {part.facts["process"] for part in parts}) == (workers == "1")


def test_what_failed_is_made_again_and_what_is_done_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_SHARD_WORKERS", "1")
    with pytest.raises(ConfigError, match="item 3"):
        make_parts(refuse, [1, 2, 3], tmp_path)
    before = digest(tmp_path)
    made = (tmp_path / "00000").stat().st_mtime_ns
    parts = make_parts(double, [1, 2, 3], tmp_path)
    assert [part.facts["twice"] for part in parts] == [2, 4, 6]
    assert (tmp_path / "00000").stat().st_mtime_ns == made and digest(tmp_path) != before


def overtaken(item: Path, folder: Path) -> dict[str, int]:
    item.mkdir()
    (item / "facts.json").write_text(json.dumps(double(1, item)))
    return double(2, folder)


def test_a_part_that_somebody_else_has_made_stays(tmp_path: Path) -> None:
    make_part(overtaken, tmp_path / "part", tmp_path / "part")
    assert (tmp_path / "part" / "twice").read_text() == "2" and os.listdir(tmp_path) == ["part"]


def test_an_error_in_another_process_ends_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_SHARD_WORKERS", "2")
    with pytest.raises(ConfigError, match="item 3: cannot be used"):
        make_parts(refuse, [3, 3], tmp_path)


def test_other_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from tests.core.test_parts import *;"
        "make_parts(wait, [0, 1, 1], Path(sys.argv[1]), lambda done, total: print(done, flush=True))"
    )
    environment = {**os.environ, "TOKENMILL_SHARD_WORKERS": "2", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, str(tmp_path)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None and process.stdout.readline() == "1\n"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(Path(f"/proc/{child}/task").exists() and _alive(child) for child in children))
    assert (tmp_path / "00000" / "facts.json").exists() and not (tmp_path / "00001").exists()


def _alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_log_without_a_scratch_has_parts_too() -> None:
    assert [part.facts["twice"] for part in Log().map(double, [4], "double")] == [8]


@pytest.mark.parametrize("name", ["nowhere:at_all", "tasks.core.parts:missing", "tasks.core.parts"])
def test_an_unknown_runner_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("TOKENMILL_RUNNER", name)
    with pytest.raises(ConfigError, match="TOKENMILL_RUNNER"):
        make_parts(double, [1], tmp_path)


@pytest.mark.parametrize("name", ["0", "two", "-1"])
def test_workers_are_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("TOKENMILL_SHARD_WORKERS", name)
    with pytest.raises(ConfigError, match="TOKENMILL_SHARD_WORKERS: must be a whole number"):
        make_parts(double, [1, 2], tmp_path)
