"""Data between machines: outputs of stages to the DVC remote and from it, and trouble with that in one line."""

import os
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

from dvc.repo import Repo, lock_repo

from flows.staleness.declared import overlap, stage_of
from flows.staleness.whole_objects import put_objects_whole


@contextmanager
def opened(root: Path) -> Iterator[Repo]:
    """The project as DVC's, with its default remote known to exist.

    Raises ValueError, of one line, for no remote and for whatever goes wrong with it in the block: DVC and the libraries below
    it raise errors of many kinds.
    """
    put_objects_whole()
    with Repo(str(root), _wait_for_lock=True) as repo:
        name = repo.config["core"].get("remote")
        if not name:
            raise ValueError(
                f"{root}: has no DVC remote to exchange data by: `dvc remote add --default NAME URL` (docs/teams.md)"
            )
        url = repo.config["remote"].get(name, {}).get("url", "no URL")
        try:
            yield repo
        except ValueError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"DVC remote {name} ({url}): {reason}") from error


def push(root: Path, paths: list[str]) -> None:
    """Copy what DVC holds of these outputs to the remote. Raises ValueError."""
    if paths:
        with opened(root) as repo:
            repo.push(targets=[str(root / path) for path in paths])


def pull(root: Path, paths: list[str]) -> None:
    """Have these outputs in their places as dvc.lock says. What stood there goes, as at `dvc repro`. Raises ValueError."""
    if paths:
        with opened(root) as repo:
            repo.pull(targets=[str(root / path) for path in paths], force=True)


def tracked(root: Path, paths: list[str]) -> list[str]:
    """The outputs that DVC holds, of stages and of `dvc add`, which these paths are, contain or lie in."""
    with Repo(str(root)) as repo:
        outs = [os.path.relpath(out.fs_path, root) for out in repo.index.outs if out.use_cache]
    return sorted({out for out in outs for path in paths if overlap(path, out)})


def uncached(root: Path, address: str) -> list[str]:
    """The outputs of a stage that DVC does not hold: metrics, which git does."""
    with Repo(str(root)) as repo:
        return [os.path.relpath(out.fs_path, root) for out in stage_of(repo, address).outs if not out.use_cache]


def remember(root: Path, address: str) -> None:
    """Enter a stage that is up to date in DVC's run cache, as if it had run here: its parameters may come back."""
    # DVC makes the entry's paths from the folder that the process stands in
    with chdir(root), Repo(str(root), _wait_for_lock=True) as repo, lock_repo(repo):
        repo.stage_cache.save(stage_of(repo, address))
