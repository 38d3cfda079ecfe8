"""Files written whole: a reader sees the old one or the new one, and a kill leaves no half."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path, durable: bool = False, shared: bool = False) -> Iterator[Path]:
    """A path beside `path` to write to; the file there takes its place when the block ends, and is removed if it raises.

    durable: it is on the disk before it gets its name. shared: other processes may be writing the same file, so its name is one
    of this process; without that, what a kill has left is written over the next time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{f'{os.getpid()}.' if shared else ''}unfinished")
    try:
        yield unfinished
        if durable:
            sync(unfinished)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def write_text(path: Path, text: str, durable: bool = False, shared: bool = False) -> None:
    """Write a text as UTF-8 in the place of what stands at `path`."""
    with replacing(path, durable, shared) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: Path, values: dict[str, Any], shared: bool = False) -> None:
    """Write sorted, indented JSON in the place of what stands at `path`. Raises ValueError for a number that is not finite."""
    write_text(path, json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n", shared=shared)


def sync(path: Path) -> None:
    """Return once a file, or the names in a folder, are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
