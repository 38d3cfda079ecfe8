"""git, asked where it is: a project may have come as an archive or an image's layer, and a machine may have no git at all."""

import os
import subprocess
from pathlib import Path

from lm.config import ConfigError

UNKNOWN = "unknown"
# What the pipeline itself writes into the tree while it runs.
OUR_WRITES = (":!data/metrics", ":!dvc.lock")


def run_git(root: Path, *arguments: str, binary: bool = False) -> subprocess.CompletedProcess:
    """Outcome of a git command, text unless `binary`; a machine without git answers with code 127 and a line that says so. A
    repository around the project that does not track it, as where an archive was unpacked in one, is none of its own."""
    try:
        surroundings = (
            None if is_tracked(root) else {**os.environ, "GIT_CEILING_DIRECTORIES": str(root.resolve().parent)}
        )
        return subprocess.run(
            ["git", *arguments], cwd=root, env=surroundings, capture_output=True, text=not binary, check=False
        )
    except FileNotFoundError:
        said = "git is not installed"
        out, error = (b"", said.encode()) if binary else ("", said)
        return subprocess.CompletedProcess(["git", *arguments], 127, out, error)


def is_tracked(root: Path) -> bool:
    """Whether the folder is the top of a repository, or of one above it the part that holds a pipeline."""
    if (root / ".git").exists():
        return True
    if not any((above / ".git").exists() for above in root.resolve().parents):
        return False
    asked = ["git", "ls-files", "--error-unmatch", "dvc.yaml"]
    return not subprocess.run(asked, cwd=root, capture_output=True, check=False).returncode


def revision(root: Path) -> str:
    """The commit that is checked out, or UNKNOWN."""
    done = run_git(root, "rev-parse", "HEAD")  # in a repository without a commit it prints HEAD and fails
    return UNKNOWN if done.returncode else done.stdout.strip()


def is_dirty(root: Path) -> str:
    """Whether the tree differs from its revision, what a run writes aside: true or false, UNKNOWN where git cannot tell."""
    done = run_git(root, "status", "--porcelain", "--", ".", *OUR_WRITES)
    return UNKNOWN if done.returncode else str(bool(done.stdout.strip())).lower()


def git(root: Path, *arguments: str) -> str:
    """What git prints, without white space around it. Raises ConfigError with the last line of its complaint."""
    done = run_git(root, *arguments)
    if done.returncode:
        raise ConfigError(
            f"git {arguments[0]}: {(done.stderr.strip() or f'exit code {done.returncode}').splitlines()[-1]}"
        )
    return done.stdout.strip()


def forget_worktrees(root: Path) -> None:
    """Have git forget those of its worktrees whose folders are gone."""
    git(root, "worktree", "prune")


def git_output(root: Path, *arguments: str) -> bytes:
    """What git prints, nothing where it fails or there is no repository."""
    done = run_git(root, *arguments, binary=True)
    return b"" if done.returncode else done.stdout
