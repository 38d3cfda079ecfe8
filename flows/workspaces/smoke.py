"""`make smoke`: the preset `smoke` in a copy of the project, so that params.yaml, data and runs here stay as they are."""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from pathspec import GitIgnoreSpec

from flows.environment import environment
from tasks.runner.git import ask, git
from tasks.runner.locks import lock

PLACE = Path(".scratch") / "smoke"


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
    """The files that git tracks or does not ignore, by their names in the project; without a repository, those that .gitignore
    does not name."""
    listed = ask(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", binary=True)
    if not listed.returncode:
        return list(filter(None, listed.stdout.decode().split("\0")))
    ignored = GitIgnoreSpec.from_lines([*(root / ".gitignore").read_text().splitlines(), "/.dvc/tmp", "/.dvc/cache"])
    found, waiting = [], [root]
    while waiting:
        for path in waiting.pop().iterdir():
            name = path.relative_to(root).as_posix()
            if not ignored.match_file(f"{name}/" if path.is_dir() else name) and name != ".git":
                waiting += [path] if path.is_dir() and not path.is_symlink() else []
                found += [name] if path.is_file() else []
    return sorted(found)


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
