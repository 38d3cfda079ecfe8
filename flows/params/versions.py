"""The versions of libraries that run here, each read once: the metadata of two dozen take six times what else is composed."""

import os
import sys
from collections.abc import Iterable
from functools import lru_cache

from tasks.core.libraries import PYTHON, installed


def versions(names: Iterable[str]) -> dict[str, str | None]:
    """The version of each of these libraries, None where it is not installed; read anew once one has been installed or removed,
    which changes a folder of Python's path."""
    places = tuple((path, os.stat(path).st_mtime_ns) for path in sys.path if os.path.isdir(path))
    return {name: installed(name) if name == PYTHON else _version(name, places) for name in names}


@lru_cache(maxsize=256)
def _version(name: str, places: tuple[tuple[str, int], ...]) -> str | None:
    return installed(name)
