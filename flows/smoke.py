"""`make smoke`: the preset `smoke` in a copy of the project, so that params.yaml, data and runs here stay as they are."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from flows.environment import environment
from tasks.core.process import lock

PLACE = Path(".scratch") / "smoke"


def copy_project(root: Path, target: Path) -> Path:
    """A copy of what git tracks and of new files that it does not ignore; a git repository of its own, with one commit."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)
    who = ["-c", "user.name=tokenmill", "-c", "user.email=tokenmill@localhost"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "a copy"]):
        subprocess.run(["git", *command], cwd=target, check=True)
    return target


def main() -> int:
    """The exit code of the pipeline in the copy, which stays in PLACE until the next one, for its report to be looked at."""
    folder = Path.cwd() / PLACE
    with lock("smoke"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        target = copy_project(Path.cwd(), folder)
        surroundings = {**environment(target), "PYTHONPATH": str(target)}
        for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME"):
            surroundings.pop(name, None)
        surroundings["PREFECT_HOME"] = str(target / ".scratch" / "prefect")
        command = [sys.executable, "-m", "flows.run", "--preset", "smoke", *sys.argv[1:]]
        return subprocess.run(command, cwd=target, env={**os.environ, **surroundings}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
