"""A small project in which everything has run once, and what must hold of it after any fault."""

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

from flows.environment import environment
from flows.workspaces.smoke import copy_project
from tasks.runner.graph import read_graph
from tasks.runner.lock import read_lock
from tests.processes import PATIENCE, command_of, wait_for
from tests.project import ROOT, TINY, write_params


class World:
    """The project, what its whole run left, and its runs: each a process `python -m flows.pipeline` of its own."""

    def __init__(self, folder: Path, server: str) -> None:
        self.folder, self.server = folder, server
        copy_project(ROOT, folder)
        (folder / "dvc.lock").unlink()
        shutil.rmtree(folder / "data" / "metrics")
        write_params(folder, TINY)
        self.seconds = dict[str, float]()
        ended = self.run()
        assert ended.returncode == 0, ended.stdout
        self.graph = read_graph(folder)
        self.lock = read_lock(folder / "dvc.lock")
        self.params = (folder / "params.yaml").read_bytes()

    def environment(self, **more: str) -> dict[str, str]:
        """Every run has this server, one thread, and a checkpoint after each step."""
        given = {
            **environment(self.folder),
            "PYTHONPATH": str(self.folder),
            "PREFECT_API_URL": self.server,
            "TOKENMILL_THREADS": "1",
            "TOKENMILL_CHECKPOINT_SECONDS": "0",
            "TOKENMILL_STOP_SECONDS": str(PATIENCE),
        }
        return {name: value for name, value in (given | more).items() if value}

    def start(self, *targets: str, **more: str) -> subprocess.Popen[str]:
        """`make pipeline` of these targets."""
        chosen = ["--targets", *targets] if targets else []
        return subprocess.Popen(
            [sys.executable, "-m", "flows.pipeline", *chosen],
            cwd=self.folder,
            env=self.environment(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *targets: str, **more: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*targets, **more)
        printed, _ = process.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(process.args, process.returncode, printed)

    def forget(self, address: str) -> None:
        """As if the stage had never run: no entry, no output, nothing to restore it from."""
        stages = {name: entry for name, entry in read_lock(self.folder / "dvc.lock").items() if name != address}
        (self.folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}, sort_keys=False))
        shutil.rmtree(self.folder / ".dvc" / "cache" / "runs", ignore_errors=True)
        for out in self.graph[address].outs:
            shutil.rmtree(self.folder / out, ignore_errors=True)
        (self.folder / "data" / "timings" / f"{address}.json").unlink(missing_ok=True)

    def await_stage(self, process: subprocess.Popen[str], address: str) -> psutil.Process | None:
        """The stage's own process, as soon as it has its scratch folder; None when the run ended before it was seen."""
        command = self.graph[address].cmd.split()[1:]
        scratch = self.folder / ".scratch" / address
        return self.wait(
            process,
            lambda: next((p for p in children(process.pid) if command_of(p)[1:] == command and any_in(scratch)), None),
        )

    def wait(self, process: subprocess.Popen[str], found: Callable[[], Any]) -> Any:
        """What `found` returns once it is something; None when the process has ended before."""
        result = wait_for(lambda: process.poll() is not None or found())
        return result if process.poll() is None else None

    def check(self) -> None:
        """A last run ends well, and leaves the bytes of the first, a sound cache, and nothing that still runs."""
        ended = self.run()
        assert ended.returncode == 0, ended.stdout
        again = self.run()
        assert again.stdout.startswith("nothing to do"), again.stdout
        assert read_lock(self.folder / "dvc.lock") == self.lock
        assert (self.folder / "params.yaml").read_bytes() == self.params
        torn = [path for path in cached(self.folder) if md5_of(path) != path.parent.name + path.stem]
        assert not torn, torn
        assert not self.left_running(), self.left_running()
        with sqlite3.connect(self.folder / "mlflow" / "store" / "mlflow.db") as store:
            going_on = "select run_uuid, name from runs where status = 'RUNNING'"
            tags = "select key, value from tags where run_uuid = ? and key like 'process.%'"
            open_runs = [(name, dict(store.execute(tags, [run]).fetchall())) for run, name in store.execute(going_on)]
        assert not open_runs, (open_runs, ended.stdout)
        unfinished = [
            path for path in (self.folder / ".scratch").glob("*/*/checkpoints") if path.parents[1].name in self.lock
        ]
        assert not unfinished, unfinished

    def left_running(self) -> list[str]:
        """The processes that stand in the project."""
        found = []
        for process in psutil.process_iter():
            try:
                if Path(process.cwd()).is_relative_to(self.folder):
                    found.append(" ".join(process.cmdline()))
            except (psutil.Error, OSError):
                continue
        return found


def children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def any_in(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def cached(folder: Path) -> list[Path]:
    """The objects of DVC's cache."""
    return [path for path in (folder / ".dvc" / "cache" / "files" / "md5").glob("??/*") if path.is_file()]


def md5_of(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def end(process: psutil.Process | subprocess.Popen[str], number: int) -> None:
    """A signal to a process that may have ended already."""
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        pass
