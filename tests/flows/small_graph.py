"""A small graph of shell commands in a repository of its own, and the flow and DVC over it."""

import subprocess
import sys
from pathlib import Path

import yaml

from flows.environment import environment
from tests import repositories
from tests.project import ROOT

STAGES = {
    "a": {"cmd": "mkdir -p data/a && echo ${a.value} > data/a/x", "params": ["a"], "outs": ["data/a"]},
    "b": {
        "cmd": "mkdir -p data/b && cat data/a/x lib.txt > data/b/x",
        "deps": ["data/a", "lib.txt"],
        "outs": ["data/b"],
    },
    "c": {"cmd": "mkdir -p data/c && cp data/a/x data/c/x", "deps": ["data/a"], "params": ["c"], "outs": ["data/c"]},
    "each": {
        "foreach": ["b", "c"],
        "do": {
            "cmd": "mkdir -p data/each/${item} && cp data/${item}/x data/each/${item}/x",
            "deps": ["data/${item}"],
            "outs": ["data/each/${item}"],
        },
    },
}
# The flow without the checks of our own stages, which these graphs do not have.
RUN = """
import os, sys
os.environ["TOKENMILL_ROOT"] = os.getcwd()
import flows.pipeline.flow as p
p.check = lambda root, params: None
p.finish = lambda *given: None
try:
    print("ran", sorted(p.pipeline(preset="current", targets=sys.argv[1:])))
except (RuntimeError, ValueError) as error:
    print("failed", error); sys.exit(1)
"""


def make_repo(folder: Path) -> Path:
    folder.mkdir()
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}).replace("'", ""))
    (folder / "params.yaml").write_text("a: {value: 1}\nc: {value: 1}\n")
    (folder / "lib.txt").write_text("library\n")
    (folder / ".gitignore").write_text("/data\n.scratch\n")
    repositories.init(folder)
    return folder


def surroundings(folder: Path, **more: str) -> dict[str, str]:
    return {**environment(folder), "PYTHONPATH": str(ROOT), "TOKENMILL_TRACKING": "off", **more}


def run_flow(folder: Path, server: dict[str, str], *targets: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", RUN, *targets],
        cwd=folder,
        env=surroundings(folder, **server),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def dvc(folder: Path, *arguments: str) -> None:
    repositories.dvc(folder, *arguments, surroundings=surroundings(folder))
