"""What a run writes to: tried by writing, one small file a folder, which is taken away again."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from flows.preflight.repository import dvc_config
from tasks.about.finding import Finding

WRITTEN = ("data", "data/metrics", "data/timings", "data/report", ".scratch", ".dvc/tmp", "mlflow/store")
REWRITTEN = ("params.yaml", "dvc.lock")


def cache_folder(root: Path) -> Path:
    """DVC's cache, wherever `cache.dir` puts it."""
    return Path(dvc_config(root)["cache"].get("dir") or root / ".dvc" / "cache")


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    while not os.path.lexists(path):
        path = path.parent
    return path


def check_writable(root: Path, cache: Path, outs: Iterable[str]) -> Iterator[Finding]:
    """The folders of the project and of DVC's cache, the outputs that are replaced, and the files that are rewritten.

    A folder that is not there yet is made by the run: the nearest one above it must take it.
    """
    tried: set[Path] = set()
    for path in [root, *(root / name for name in WRITTEN), cache, *((root / out).parent for out in outs)]:
        place = existing(path)
        if place in tried:
            continue
        tried.add(place)
        try:
            with tempfile.NamedTemporaryFile(dir=place, prefix=".preflight-") as file:
                file.write(b"x")
        except OSError as error:
            yield Finding(
                shown(place, root),
                f"cannot be written: {error.strerror}",
                "make it a folder that this user may write to",
            )
    for out in outs:
        # not by a file: DVC would see the folder changed and hash all of it again
        if (path := root / out).exists() and not os.access(path, os.W_OK):
            yield Finding(
                out,
                "cannot be replaced: it may not be written to",
                f"`chmod -R u+w {out}`, or make its file system writable",
            )
    for name in REWRITTEN:
        if (path := root / name).exists() and not os.access(path, os.W_OK):
            yield Finding(name, "cannot be written", f"`chmod u+w {name}`")


def shown(path: Path, root: Path) -> str:
    """The path as a user would name it: relative to the project where it is inside."""
    return str(path.relative_to(root)) if path.is_relative_to(root) and path != root else str(path)
