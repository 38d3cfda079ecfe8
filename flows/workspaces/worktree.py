"""A revision of the project in a git worktree of its own, with the DVC cache and remotes of the clone it belongs to."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dvc.config import Config
from dvc.config_schema import RelPath

from tasks.runner.git import forget_worktrees, git
from tasks.runner.own import open_lock

FOLDER = Path(".scratch") / "worktrees"


def has_commit(clone: Path, revision: str) -> bool:
    """Whether the clone holds this commit."""
    try:
        git(clone, "cat-file", "-e", f"{revision}^{{commit}}")
    except ValueError:
        return False
    return True


def fetch_commit(clone: Path, remote: str, revision: str) -> None:
    """Have the commit in the clone, fetched from this remote of git's. Raises ValueError when it cannot be had."""
    if has_commit(clone, revision):
        return
    url = git(clone, "remote", "get-url", remote)
    try:
        git(clone, "fetch", "--quiet", remote)
    except ValueError as error:
        raise ValueError(f"git remote {remote} ({url}) cannot be read: {' '.join(str(error).split())}") from None
    if not has_commit(clone, revision):
        raise ValueError(f"revision {revision[:12]} is not in the git remote {remote} ({url}): `git push` it")


@contextmanager
def worktree(clone: Path, owner: str, revision: str) -> Iterator[Path]:
    """The revision checked out below .scratch/worktrees/<owner>, as committed, for as long as the block lasts.

    It stays there afterwards, with the scratch of its stages: a stage that was killed goes on from its checkpoint when it is
    sent again. The owner's worktrees of other revisions are removed. One block at a time has an owner's worktree.
    """
    folder = (clone / FOLDER / owner).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    tree = folder / revision
    with file_lock(folder / "owner.lock"):
        with file_lock(folder.parent / "git.lock"):  # git refuses two who change its list of worktrees at once
            for other in folder.iterdir():
                if other.is_dir() and other != tree:
                    shutil.rmtree(other)
            forget_worktrees(clone)
            if (tree / ".git").exists():
                git(tree, "reset", "--quiet", "--hard", revision)
                git(tree, "clean", "--quiet", "-d", "--force")
            else:
                shutil.rmtree(tree, ignore_errors=True)
                git(clone, "worktree", "add", "--quiet", "--detach", "--force", str(tree), revision)
        share_data(clone, tree)
        yield tree


def share_data(clone: Path, tree: Path) -> None:
    """Give the worktree the clone's DVC remotes, with their credentials, and its cache, as its own configuration has them, by
    paths that stay right when both are moved.

    Relative paths of .dvc/config are relative to that file, and the worktree's lies deeper; so they are written anew.
    """
    found = Config(str(clone / ".dvc")).read()
    path = tree / ".dvc" / Config.CONFIG_LOCAL
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    with Config(str(tree / ".dvc"), validate=False).edit("local") as local:
        for section in ("core", "remote"):
            local[section] = found[section]
        local["cache"] = {"dir": RelPath((clone / ".dvc" / "cache").absolute()), **found["cache"]}


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """The lock of this file, waited for; the kernel lets it go with the process."""
    with os.fdopen(open_lock(path), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
