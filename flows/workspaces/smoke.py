"""`make smoke`: the preset `smoke` in a copy of the project, so that params.yaml, data and runs here stay as they are."""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from pathspec import GitIgnoreSpec

from flows.environment import environment
from tasks.core.yaml import read_yaml
from tasks.runner.git import git, run_git
from tasks.runner.locks import lock

PLACE = Path(".scratch") / "smoke"
# of data/, what the runner and the report write beside the stages' own folders
MADE = ("keys", "metrics", "report", "timings")


def copy_project(root: Path, target: Path) -> Path:
    """A copy of what git tracks and of new files that it does not ignore; where there is git, a repository of its own, with one
    commit."""
    for name in ours(root):
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)
    who = ["-c", "user.name=tokenmill", "-c", "user.email=tokenmill@localhost"]
    if not shutil.which("git"):
        return target
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "a copy"]):
        git(target, *command)
    return target


def ours(root: Path) -> list[str]:
    """The files that git tracks or does not ignore, and those of a user's own folders in data/, by their names in the project;
    without a repository, those that .gitignore does not name."""
    found = set(own_data(root))
    listed = run_git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", binary=True)
    if not listed.returncode:
        return sorted(found.union(filter(None, listed.stdout.decode().split("\0"))))
    ignored = GitIgnoreSpec.from_lines([*(root / ".gitignore").read_text().splitlines(), "/.dvc/tmp", "/.dvc/cache"])
    return sorted(found.union(files(root, root, lambda name: name.rstrip("/") == ".git" or ignored.match_file(name))))


def own_data(root: Path) -> Iterator[str]:
    """The files of data/ in folders that no stage makes: `ingest.folder` and others may name such a one, which git is not to
    have and a copy of the project is."""
    made = {f"data/{name}" for name in (*read_yaml(root / "dvc.yaml")["stages"], *MADE)}
    return files(root, root / "data", lambda name: name.rstrip("/") in made or name.rstrip("/").endswith(".unfinished"))


def files(root: Path, folder: Path, left_out: Callable[[str], bool]) -> Iterator[str]:
    """The files below a folder by their names in the project, behind no link to a folder; left_out: of names of files, and of
    folders with a / behind."""
    for path in folder.iterdir() if folder.is_dir() else ():
        name = path.relative_to(root).as_posix()
        if left_out(f"{name}/" if path.is_dir() else name):
            continue
        if path.is_file():
            yield name
        elif path.is_dir() and not path.is_symlink():
            yield from files(root, path, left_out)


def main() -> int:
    """The exit code of the pipeline in the copy, which stays in PLACE until the next one, for its report to be looked at."""
    parser = argparse.ArgumentParser(
        prog="tokenmill smoke", description=__doc__, epilog="Takes the words of `pipeline`."
    )
    _, words = parser.parse_known_args()
    folder = Path.cwd() / PLACE
    with lock("smoke"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        target = copy_project(Path.cwd(), folder)
        surroundings = {**environment(target), "PYTHONPATH": str(target)}
        for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME"):
            surroundings.pop(name, None)
        surroundings["PREFECT_HOME"] = str(target / ".scratch" / "prefect")
        command = [sys.executable, "-m", "flows.pipeline", "--preset", "smoke", *words]
        return subprocess.run(command, cwd=target, env={**os.environ, **surroundings}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
