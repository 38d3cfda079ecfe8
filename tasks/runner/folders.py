"""A stage's folders: a view of the data it declares, and its output put in place whole."""

import os
import shutil
from pathlib import Path

from tasks.runner.graph import Entry


def output_path(entry: Entry) -> Path:
    """Where a stage's output is below data/."""
    return Path(entry.outs[0]).relative_to("data")


def make_view(entry: Entry, folder: Path) -> Path:
    """A data folder that holds the declared dependencies, by links, and an empty output folder: a stage that reads
    what dvc.yaml does not declare fails instead of being stale unnoticed."""
    view = folder / "view"
    shutil.rmtree(view, ignore_errors=True)
    for path in map(Path, entry.deps):
        if path.parts[0] == "data":
            link = view / path.relative_to("data")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
    (view / output_path(entry)).mkdir(parents=True)
    return view


def replace(made: Path, out: Path) -> None:
    """Put the output in its place by renames: what stands there is the whole old one, nothing, or the whole new one.

    The scratch may be on another device than data/; the output is then copied beside its place first.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    new, old = out.with_name(f".{out.name}.new"), out.with_name(f".{out.name}.old")
    _remove(new)
    _remove(old)
    shutil.move(made, new)
    if os.path.lexists(out):
        os.replace(out, old)
    os.replace(new, out)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
