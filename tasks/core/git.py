"""git, asked where it is: a project may have come as an archive or an image's layer, and a machine may have no git at all."""

import subprocess
from pathlib import Path

UNKNOWN = "unknown"


def ask(root: Path, *arguments: str, binary: bool = False) -> subprocess.CompletedProcess:
    """As subprocess.run has it, text unless `binary`; a machine without git answers with code 127 and a line that says so."""
    try:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=not binary, check=False)
    except FileNotFoundError:
        said = "git is not installed"
        out, error = (b"", said.encode()) if binary else ("", said)
        return subprocess.CompletedProcess(["git", *arguments], 127, out, error)


def revision(root: Path) -> str:
    """The commit that is checked out, or UNKNOWN."""
    done = ask(root, "rev-parse", "HEAD")  # in a repository without a commit it prints HEAD and fails
    return UNKNOWN if done.returncode else done.stdout.strip()
