"""A copy of this checkout with a git history of one commit, for tests that run the project as a user does."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def copy_project(folder: Path) -> Path:
    """The folder, holding every file of this checkout that git does not ignore, committed."""
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT,
                            capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "a copy for a test"]):
        subprocess.run(["git", "-c", "user.name=test", "-c", "user.email=test@localhost", *command], cwd=folder,
                       check=True, capture_output=True)
    return folder


def processes_in(folder: Path) -> list[int]:
    """The processes whose working directory is this folder or below it (Linux)."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if link.resolve(strict=True).is_relative_to(folder):
                found.append(int(link.parent.name))
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
    return found
