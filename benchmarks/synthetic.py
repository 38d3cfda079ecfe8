"""A git repository with our code and a graph of trivial stages, to measure what surrounds the work of a stage."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.contest import Arm, Sample
from benchmarks.subprocess_arm import ROOT

CODE = ("flows", "tasks", "lm", "kernels")
ROOM = "from lm.config import Config\n\n\nclass S{}Config(Config):\n    value: int\n"


def repository(folder: Path, stages: int) -> Path:
    """A committed repository whose `stages` stages follow one another, each copying one small file.

    Each has a room with a config, since the flow checks all parameters before it starts.
    """
    for name in CODE:
        shutil.copytree(ROOT / name, folder / name)
    (folder / "data" / "raw").mkdir(parents=True)
    (folder / "data" / "raw" / "0").write_text("grain\n")
    graph, params = ["stages:"], []
    for i in range(stages):
        source = f"data/s{i - 1}" if i else "data/raw"
        graph += [f"  s{i}:", f"    cmd: cp -r {source} data/s{i}", f"    deps: [{source}]"]
        graph += [f"    params: [s{i}]", f"    outs: [data/s{i}]"]
        params += [f"s{i}:", "  value: 0"]
        room = folder / "tasks" / f"s{i}"
        room.mkdir()
        (room / "stage.py").write_text(ROOM.format(i))
    (folder / "dvc.yaml").write_text("\n".join(graph) + "\n")
    (folder / "params.yaml").write_text("\n".join(params) + "\n")
    (folder / ".gitignore").write_text(".scratch/\n__pycache__/\nmlflow/\ndata/\n")
    git = ["git", "-c", "user.name=bench", "-c", "user.email=bench"]
    run(folder, *git, "init", "--quiet")
    run(folder, sys.executable, "-m", "dvc", "init", "--quiet")
    run(folder, *git, "add", "--all")
    run(folder, *git, "commit", "--quiet", "--message", "a graph of trivial stages")
    return folder


def forget(folder: Path) -> None:
    """Make nothing of it done: no lock, no outputs, no cache."""
    (folder / "dvc.lock").unlink(missing_ok=True)
    for path in (*(folder / "data").glob("s*"), folder / ".dvc" / "cache", folder / ".dvc" / "tmp"):
        shutil.rmtree(path, ignore_errors=True)


def run(folder: Path, *command: str, environment: dict[str, str] | None = None) -> None:
    """Run a command there. Raises RuntimeError with the end of what it said when it fails."""
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **(environment or {})}, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout[-2000:]}")


def arm(name: str, folder: Path, command: list[str], cold: bool, environment: dict[str, str] | None = None) -> Arm:
    """Seconds of `command` in the repository, from nothing or with nothing to do; the answer is the lock it leaves."""

    def measure() -> Sample:
        if cold:
            forget(folder)
        began = time.perf_counter()
        run(folder, *command, environment=environment)
        return Sample({"time": time.perf_counter() - began}, (folder / "dvc.lock").read_text())

    return Arm(name, measure)
