"""Inputs that a checkout's parameters name from where it stands, as a variant of it reaches them by the same names."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.core.config import ConfigError
from tasks.runner.graph import graph_of

VARIANTS = Path(".variants")  # outside .scratch, which `make clean` empties


def reach_inputs(root: Path, params: dict[str, Any]) -> None:
    """Bring a variant what its stages read and nothing makes: `../my-text` lies beside the checkout, and a link of that name
    beside its variants leads there, so that the name, which decides keys, is the same in all of them. Nothing is done for what
    is no variant. Raises ConfigError for an input that no such link can lead to."""
    if root.parent.name != VARIANTS.name:
        return
    home = root.parent.parent
    graph = graph_of(root, params)
    made = [Path(out) for entry in graph.values() for out in entry.outs]
    for path in sorted({dep for entry in graph.values() for dep in entry.deps}):
        if path.startswith(".."):
            _link(home, root, path)
        elif not Path(path).is_absolute() and not any(Path(path).is_relative_to(out) for out in made):
            bring(home / path, root / path)


def _link(home: Path, root: Path, path: str) -> None:
    link, target = Path(os.path.normpath(root / path)), Path(os.path.normpath(home / path))
    why = "" if link.parent == root.parent else "lies more than one folder up"
    if not why and link.exists() and not (target.exists() and link.samefile(target)):
        why = "has the name of a variant"
        if link.is_symlink():  # what it led to was moved
            link.unlink()
            why = ""
    if why:
        raise ConfigError(f"{path}: {why}, where no variant of this checkout finds it: name it by {target.resolve()}")
    if target.exists():
        with suppress(FileExistsError):  # another variant was quicker
            link.symlink_to(os.path.relpath(target, link.parent))


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
