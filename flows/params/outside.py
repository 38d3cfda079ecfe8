"""Inputs that a checkout's parameters name from where it stands, as a variant of it reaches them by the same names."""

import os
import shutil
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.core.config import ConfigError
from tasks.runner.git import git_output
from tasks.runner.graph import Entry, graph_of

VARIANTS = Path(".variants")  # outside .scratch, which `make clean` empties
# A variant has the code of its revision, whatever lies in these folders of the checkout
CODE = ("flows", "tasks", "lm", "kernels")


def reach_inputs(root: Path, params: dict[str, Any]) -> None:
    """Bring a variant what its stages read and nothing makes, by the names that its checkout has for it. Nothing is done for
    what is no variant. Raises ConfigError, a line each, for inputs that the variant cannot have by their names."""
    if root.parent.name != VARIANTS.name:
        return
    if refused := bring_inputs(root.parent.parent, root, graph_of(root, params)):
        raise ConfigError("\n".join(refused))


def bring_inputs(home: Path, root: Path, graph: dict[str, Entry]) -> list[str]:
    """Bring a variant of the checkout `home` what the stages of this graph read, no stage makes and git does not hold; returns
    a line for each that it cannot have by its name. `../my-text` lies beside the checkout, and a link of that name beside its
    variants leads there, so that the name, which decides keys, is the same in all of them."""
    made = [Path(out) for entry in graph.values() for out in entry.outs]
    paths = sorted({dep for entry in graph.values() for dep in entry.deps})
    within = [path for path in paths if not path.startswith("..") and not Path(path).is_absolute()]
    within = [path for path in within if Path(path).parts[0] not in CODE]
    held = git_output(home, "ls-files", "-z", "--", *within).decode().split("\0") if within else []
    held_here = {home / name for name in held}  # those of the variant's revision are there already
    for path in within:
        if not any(Path(path).is_relative_to(out) for out in made):
            bring(home / path, root / path, held_here)
    refused = [_link(home, root, path) for path in paths if path.startswith("..")]
    return [line for line in refused if line]


def _link(home: Path, root: Path, path: str) -> str:
    """Lead the variant to what lies beside its checkout; a line where no link can, else nothing."""
    link, target = Path(os.path.normpath(root / path)), Path(os.path.normpath(home / path))
    why = "" if link.parent == root.parent else "lies more than one folder up"
    if not why and link.exists() and not (target.exists() and link.samefile(target)):
        why = "has the name of a variant"
        if link.is_symlink():  # what it led to was moved
            link.unlink()
            why = ""
    if why:
        return f"{path}: {why}, where no variant of this checkout finds it: name it by {target.resolve()}"
    if target.exists():
        with suppress(FileExistsError):  # another variant was quicker
            link.symlink_to(os.path.relpath(target, link.parent))
    return ""


def bring(path: Path, to: Path, held: Container[Path] = ()) -> None:
    """Link what is there and is missing at the other place, but for the files that are held; copied where the file system has
    no links."""
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        target = to / file.relative_to(path) if path.is_dir() else to
        if file not in held and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file.resolve(), target)
            except OSError:
                shutil.copyfile(file, target)
