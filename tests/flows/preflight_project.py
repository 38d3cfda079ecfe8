"""What the tests of preflight share: a small project with a DVC folder, and the toy run of the default params, made once."""

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from dvc.repo import Repo

from flows.params.compose import compose
from flows.preflight.child import ALONE, REMOVED
from flows.preflight.resources import Needs
from lm.hugging_face.export import save_hf
from tasks.about.finding import Finding
from tests.lm.models import toy_model, toy_tokenizer
from tests.project import ROOT, make_inputs

NOBODY = 65534
PROGRAM = """
import json, sys
from pathlib import Path
from flows.params.compose import compose
from flows.preflight.slow_checks import run_slow_checks
from tasks.runner.graph import read_graph
root, folder = Path.cwd(), Path(sys.argv[1])
found, needs = run_slow_checks(root, compose(root, "current", []), list(read_graph(root)), folder / "toy")
(folder / "answer.json").write_text(json.dumps([[str(finding) for finding in found], needs]))
"""


@dataclass(frozen=True)
class Good:
    """The toy run of the default params: its folder, what it found, and what it said a run needs."""

    folder: Path
    found: list[str]
    needs: Needs


@cache
def good_run() -> Good:
    """Once for all tests of a process; the folder goes at its end."""
    folder = Path(tempfile.mkdtemp(prefix="preflight-good-"))
    atexit.register(shutil.rmtree, folder, True)
    surroundings = {key: value for key, value in os.environ.items() if key not in REMOVED} | ALONE
    surroundings |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], cwd=ROOT, env=surroundings, check=True)
    found, needs = json.loads((folder / "answer.json").read_text())
    return Good(folder / "toy", found, Needs(**needs))


@cache
def params_of(*overrides: str, preset: str = "current") -> dict[str, Any]:
    return compose(ROOT, preset, list(overrides))


def make_project(folder: Path) -> Path:
    """The project's code by links, its params and graph as copies, a DVC folder, and inputs."""
    folder.mkdir(exist_ok=True)
    for name in ("tasks", "lm", "kernels", "flows", "presets", ".dvcignore"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, folder / name)
    make_inputs(folder)
    Repo.init(str(folder), no_scm=True).close()
    return folder


def make_checkpoint(project: Path, **shape: Any) -> Path:
    """A Hugging Face model of ours in data/checkpoint."""
    folder = project / "data/checkpoint"
    save_hf(toy_model(**shape), toy_tokenizer(), folder, torch.float32)
    return folder


@contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """Without the rights of root, which no mode bit stops; the folder becomes that user's."""
    if os.getuid():
        yield
        return
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    os.setresgid(NOBODY, NOBODY, 0)
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)


def named(found: list[Finding], *words: str) -> bool:
    """Whether one line, and only one, has all the words."""
    lines = [str(finding) for finding in found]
    assert all("\n" not in line for line in lines)
    return sum(all(word in line for word in words) for line in lines) == 1


def configure(project: Path, text: str) -> Path:
    (project / ".dvc/config").write_text(text)
    return project
