"""The stage key: a digest of all that decides a stage's output, made of the very digests that DVC compares."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pathspec import PathSpec

from tasks.core.graph import Entry


def file_md5(path: Path) -> str:
    """md5 of a file's bytes, as DVC 3 computes it."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def files_of(path: Path, ignored: PathSpec) -> list[Path]:
    """The files of a dependency that count, sorted: those .dvcignore does not name."""
    if path.is_file():
        return [path]
    return sorted(p for p in path.rglob("*") if p.is_file() and not ignored.match_file(p.as_posix()))


def path_md5(path: Path, ignored: PathSpec) -> str:
    """DVC's md5 of a file, or of a folder: the md5 of its sorted listing, with `.dir` after it."""
    if path.is_file():
        return file_md5(path)
    listing = [{"md5": file_md5(p), "relpath": p.relative_to(path).as_posix()} for p in files_of(path, ignored)]
    listing.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def read_ignored(root: Path = Path(".")) -> PathSpec:
    """The patterns of .dvcignore."""
    path = root / ".dvcignore"
    return PathSpec.from_lines("gitignore", path.read_text().splitlines() if path.exists() else [])


def dependency_md5s(entry: Entry, ignored: PathSpec) -> dict[str, str]:
    """md5 of each dependency. Raises FileNotFoundError naming the one that is missing."""
    for path in entry.deps:
        if not Path(path).exists():
            raise FileNotFoundError(
                f"{entry.address}: its dependency {path} does not exist; has the stage before it run?"
            )
    return {path: path_md5(Path(path), ignored) for path in entry.deps}


def signature(entry: Entry, ignored: PathSpec) -> list[tuple[str, int, int]]:
    """(file, size, time of last change) of every dependency: differs whenever a digest could."""
    files = [p for path in entry.deps for p in files_of(Path(path), ignored)]
    return [(p.as_posix(), p.stat().st_size, p.stat().st_mtime_ns) for p in files]


def stage_key(entry: Entry, md5s: dict[str, str], params: dict[str, Any]) -> str:
    """sha256 of command, dependencies and the sections of params that the stage declares."""
    decides = {"cmd": entry.cmd, "deps": md5s, "params": {name: params.get(name) for name in entry.params}}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
