"""A stage's folders: a view of the data it declares, and its output put in place whole."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from tasks.core.graph import Entry


def inside(entry: Entry) -> Path:
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
    (view / inside(entry)).mkdir(parents=True)
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


def put_in_place(made: Path, place: Path) -> None:
    """A file of a part under another name too: a part that lost it would be taken for whole by a killed stage's next run."""
    try:
        os.link(made, place)
    except OSError:  # on another device
        shutil.copyfile(made, place)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write sorted, indented JSON; a reader sees the old file or the new one."""
    write_text(path, json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole: a reader sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text)
    os.replace(unfinished, path)
