"""`make variant NAME=wide SET="..."`: the pipeline with other parameters, in a git worktree of its own beside this one.

Several run at once: each has its params.yaml, dvc.lock and data, and shares DVC's cache, the store of runs, and the places
in which stages may run. What this checkout has already made is not made again.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from flows.environment import environment
from tasks.core.config import ConfigError, read_params
from tasks.core.git import ask
from tasks.core.graph import read_graph
from tasks.core.tracking import flatten

FIGURES = ("bits_per_byte", "accuracy", "size_bytes")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
FOLDER = Path(".variants")  # outside .scratch, which `make clean` empties


def git(root: Path, *arguments: str) -> str:
    """What git prints. Raises ConfigError with what it says."""
    done = ask(root, *arguments)
    if done.returncode:
        raise ConfigError(f"git {arguments[0]}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def place(root: Path, name: str) -> Path:
    """Where the variant of this name is or will be. Raises ConfigError for what is no name."""
    if not NAME.fullmatch(name) or ".." in name:
        raise ConfigError(f"NAME: {name!r} must be letters, digits, '.', '_' or '-', and begin with a letter or digit")
    return root / FOLDER / name


def make(root: Path, name: str, revision: str) -> Path:
    """The worktree of a variant; what was made under this name before is taken up as it is.

    A new one has the code of the revision, and of this checkout the inputs that git does not hold, params.yaml and dvc.lock.
    """
    folder = place(root, name)
    if folder.exists():
        return folder
    git(root, "worktree", "prune")
    git(root, "worktree", "add", "--quiet", "--detach", str(folder), revision)
    try:
        for file in ("params.yaml", "dvc.lock"):
            if (root / file).exists():
                shutil.copyfile(root / file, folder / file)
        for path in inputs(root):
            bring(root / path, folder / path)
        local = folder / ".dvc" / "config.local"
        local.write_text(f"[cache]\n    dir = {root / '.dvc' / 'cache'}\n")
    except BaseException:
        git(root, "worktree", "remove", "--force", str(folder))
        raise
    return folder


def inputs(root: Path) -> list[str]:
    """The dependencies below data/ that no stage makes."""
    graph = read_graph(root)
    made = [Path(out) for entry in graph.values() for out in entry.outs]
    needed = {path for entry in graph.values() for path in entry.deps if path.startswith("data/")}
    return sorted(path for path in needed if not any(Path(path).is_relative_to(out) for out in made))


def bring(path: Path, to: Path) -> None:
    """Link what is there and is missing at the other place; copied where the file system has no links."""
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        target = to / file.relative_to(path) if path.is_dir() else to
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file.resolve(), target)
            except OSError:
                shutil.copyfile(file, target)


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


def changed(root: Path, folder: Path) -> dict[str, str]:
    """The parameters in which a variant differs from its checkout, by dotted name."""
    here, there = (flatten(read_params(path / "params.yaml")) for path in (root, folder))
    return {name: value for name, value in there.items() if here.get(name) != value}


def figures(folder: Path) -> str:
    """What evaluation found of each model."""
    said = []
    for file in sorted((folder / "data" / "metrics").glob("evaluate@*.json")):
        found = json.loads(file.read_text())
        said.append(" ".join([file.stem.partition("@")[2], *(f"{name} {found[name]:.4g}" for name in FIGURES)]))
    return "; ".join(said) or "not evaluated"


def table(root: Path) -> str:
    """A line for each variant: what differs, and what evaluation found."""
    lines = []
    for folder in sorted(path for path in (root / FOLDER).glob("*") if (path / "params.yaml").exists()):
        different = ", ".join(f"{name}={value}" for name, value in changed(root, folder).items()) or "as here"
        lines.append(f"{folder.name:>18} | {different} | {figures(folder)}")
    return "\n".join(lines) or 'no variants; make variant NAME=wide SET="pretrain.model.width=256" makes one'


def main() -> int:
    """Exit code: that of the pipeline in the variant; 2 for a mistake in what was asked for."""
    parser = argparse.ArgumentParser(prog="make variant", description=__doc__)
    parser.add_argument("--name", default="")
    parser.add_argument("--revision", default="HEAD")
    parser.add_argument("--remove", action="store_true")
    asked, rest = parser.parse_known_args()
    root = Path.cwd()
    try:
        if not asked.name:
            print(table(root))
            return 0
        if asked.remove:
            git(root, "worktree", "remove", "--force", str(place(root, asked.name)))
            return 0
        folder = make(root, asked.name, asked.revision)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"variant {asked.name}: {folder}", flush=True)
    command = [sys.executable, "-m", "flows.run", *rest]
    return subprocess.run(command, cwd=folder, env=surroundings(root, folder), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
