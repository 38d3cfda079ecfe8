"""`make variant NAME=wide SET="..."`: the pipeline with other parameters, in a git worktree of its own beside this one.

Several run at once: each has its params.yaml, dvc.lock and data, and shares DVC's cache, the store of runs, and the places
in which stages may run. What this checkout has already made is not made again.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from flows.environment import environment
from flows.params.outside import VARIANTS, bring_inputs
from flows.workspaces.variant_table import changed, evaluated, table
from flows.workspaces.worktree import share_data
from tasks.core.config import ConfigError
from tasks.runner.answer import add_json_option, print_json, stdout_to_stderr
from tasks.runner.git import forget_worktrees, git
from tasks.runner.graph import read_graph
from tasks.runner.locks import LOCKS, lock
from tasks.runner.timings import STORE

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def place(root: Path, name: str) -> Path:
    """Where the variant of this name is or will be. Raises ConfigError for what is no name."""
    if not NAME.fullmatch(name) or ".." in name:
        raise ConfigError(f"NAME: {name!r} must be letters, digits, '.', '_' or '-', and begin with a letter or digit")
    if (root / VARIANTS / name).is_symlink():
        raise ConfigError(f"NAME: {name!r} leads variants to an input of that name: take another")
    return root / VARIANTS / name


def make(root: Path, name: str, revision: str) -> Path:
    """The worktree of a variant; what was made under this name before is taken up as it is.

    A new one has the code of the revision, and of this checkout the inputs that git does not hold, params.yaml and dvc.lock.
    Raises ConfigError for a revision that is not an existing one's.
    """
    folder = place(root, name)
    if folder.exists():
        take_up(root, folder, revision)
        return folder
    repair(root)  # else git takes those of a project that was moved for gone
    with lock("worktrees", root / LOCKS):  # a prune takes away the folder that another's add is about to use
        forget_worktrees(root)
        git(root, "worktree", "add", "--quiet", "--detach", str(folder), revision)
    try:
        for file in ("params.yaml", "dvc.lock"):
            if (root / file).exists():
                shutil.copyfile(root / file, folder / file)
        # what of them no variant can have is said of the parameters that it runs with, which need not be these
        bring_inputs(root, folder, read_graph(root))
        share(root, folder)
    except BaseException:
        git(root, "worktree", "remove", "--force", str(folder))
        raise
    return folder


def surroundings(root: Path, folder: Path) -> dict[str, str]:
    """The environment of a variant's processes: its own code and scratch; the checkout's runs and places."""
    shared = {
        "PYTHONPATH": str(folder),
        "TOKENMILL_LOCKS": str(root / ".scratch" / "locks"),
        "MLFLOW_TRACKING_URI": os.environ.get(
            "MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow' / 'store' / 'mlflow.db'}"
        ),
        "PREFECT_HOME": str(folder / ".scratch" / "prefect"),
    }
    return {**environment(folder), **shared}


def made(root: Path) -> list[Path]:
    """The folders of the variants, by name."""
    found = (path for path in (root / VARIANTS).glob("*") if not path.is_symlink())
    return sorted(path for path in found if (path / "params.yaml").exists())


def all_of_them(root: Path) -> str:
    """The table of the variants, or how to make one."""
    folders = made(root)
    if not folders:
        return 'no variants; make variant NAME=wide SET="pretrain.model.width=240" makes one'
    return table(root, folders)


def remove(root: Path, name: str) -> None:
    """Take a variant away. Raises ConfigError for one that is not there."""
    folder = place(root, name)
    if not folder.exists():
        there = ", ".join(path.name for path in made(root)) or "none"
        raise ConfigError(f"NAME: there is no variant {name!r} (there are: {there})")
    repair(root)
    git(root, "worktree", "remove", "--force", str(folder))


def repair(root: Path) -> None:
    """Have git find the variants where they are now. One that it cannot repair is told of when it is asked for."""
    with suppress(ConfigError):
        git(root, "worktree", "repair", *map(str, made(root)))


def take_up(root: Path, folder: Path, revision: str) -> None:
    """Make an existing variant usable again after its project was moved. Raises ConfigError when another revision than its own
    is asked for."""
    repair(root)
    share(root, folder)
    its, asked = (git(where, "rev-parse", f"{name}^{{commit}}") for where, name in ((folder, "HEAD"), (root, revision)))
    if its == asked:
        return
    if revision != "HEAD":
        raise ConfigError(
            f"REV: the variant {folder.name} has the code of {its[:12]}, not of {revision}: "
            "take another NAME, or take this one away first with REMOVE=1"
        )
    print(f"variant {folder.name}: code of {its[:12]}; this checkout is at {asked[:12]}", flush=True)


def share(root: Path, folder: Path) -> None:
    """The checkout's DVC cache and remotes, and its figures of runs, by paths that stay right when the project is moved as a
    whole."""
    share_data(root, folder)
    kept, here = folder / STORE, root / STORE
    here.mkdir(parents=True, exist_ok=True)
    kept.parent.mkdir(parents=True, exist_ok=True)
    if not kept.is_symlink():
        kept.symlink_to(os.path.relpath(here, kept.parent))


def main() -> int:
    """Exit code: that of the pipeline in the variant; 2 for a mistake in what was asked for."""
    parser = argparse.ArgumentParser(prog="tokenmill variant", description=__doc__)
    parser.add_argument("--name", default="")
    parser.add_argument("--revision", default="HEAD")
    parser.add_argument("--remove", action="store_true")
    add_json_option(parser)
    asked, rest = parser.parse_known_args()
    root = Path.cwd()
    try:
        if not asked.name and asked.json:
            print_json(
                [{"name": path.name, "params": changed(root, path), "models": evaluated(path)} for path in made(root)]
            )
            return 0
        if not asked.name:
            print(all_of_them(root))
            return 0
        if rest and not rest[0].startswith("-"):
            raise ConfigError(f"NAME: {' '.join([asked.name, rest[0]])!r}: a name is one word")
        if asked.remove:
            remove(root, asked.name)
            if asked.json:
                print_json({"removed": asked.name})
            return 0
        with stdout_to_stderr(asked.json):
            folder = make(root, asked.name, asked.revision)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"variant {asked.name}: {folder}", flush=True, file=sys.stderr if asked.json else sys.stdout)
    command = [sys.executable, "-m", "flows.pipeline", *rest, *(["--json"] if asked.json else [])]
    return subprocess.run(command, cwd=folder, env=surroundings(root, folder), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
