"""Files that every batch needs, read once a process."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

Value = TypeVar("Value")


def cached_by_file(read: Callable[[Path], Value]) -> Callable[[Path], Value]:
    """`read`, whose last values are kept until the file is another one."""

    @lru_cache(maxsize=2)
    def read_version(path: Path, version: Any) -> Value:
        return read(path)

    def read_kept(path: Path) -> Value:
        found = path.stat()
        return read_version(path, (found.st_ino, found.st_mtime_ns, found.st_size))

    return read_kept
