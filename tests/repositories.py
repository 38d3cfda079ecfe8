"""Folders under git and DVC for tests, as `git init` and `dvc init` leave them, and DVC without the second of its imports."""

import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from flows.environment import environment
from tests.forks.process import DVC, run_forked


def init(folder: Path) -> None:
    """Make a folder a repository of git and of DVC: a copy of one in which both have been begun."""
    shutil.copytree(template_repository().name, folder, dirs_exist_ok=True)


@cache
def template_repository() -> TemporaryDirectory[str]:
    """A repository in which nothing else lies; gone with this process."""
    made = TemporaryDirectory(prefix="begun-")
    folder = Path(made.name)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    dvc(folder, "init", "-q", surroundings=environment(folder))
    shutil.rmtree(folder / ".dvc" / "tmp", ignore_errors=True)
    shutil.rmtree(folder / ".scratch", ignore_errors=True)
    return made


def dvc(folder: Path, *arguments: str, surroundings: dict[str, str]) -> None:
    """`dvc ARGUMENTS` in a folder. Raises AssertionError with what it says where it fails."""
    done = run_forked("dvc", list(arguments), folder, surroundings, DVC)
    assert done.returncode == 0, done.stdout + done.stderr
