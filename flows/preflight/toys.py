"""What toy runs that passed have left, so that a stage is rehearsed again only where something that decides it differs."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from tasks.runner.graph import Entry

# Of the default pipeline's fifteen stages, for a handful of parameter sets: some megabytes each.
KEPT = 80


class Toys:
    """Outputs of toy stages in a folder, by their keys. base: a digest of what all of them depend on."""

    def __init__(self, folder: Path, base: str) -> None:
        self._folder, self._base = folder, base

    def keys(
        self, graph: dict[str, Entry], order: list[str], edges: dict[str, list[str]], toy: dict[str, Any]
    ) -> dict[str, str]:
        """A digest for each stage of the order, of the base, the stage, its toy params, and the keys of those it reads."""
        found: dict[str, str] = {}
        for address in order:
            before = [found.get(other) for other in edges[address]]
            decides = [self._base, graph[address].cmd, graph[address].declared(toy), before]
            found[address] = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
        return found

    def has(self, key: str) -> bool:
        """Whether a stage with this key has passed."""
        return (self._folder / key).is_dir()

    def lend(self, key: str, place: Path) -> None:
        """Put what the stage left at a place, to be read there."""
        os.utime(self._folder / key)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to((self._folder / key).absolute(), target_is_directory=True)

    def keep(self, key: str, place: Path) -> None:
        """Remember that it passed, with what it left, and forget the longest unused beyond KEPT."""
        unfinished = self._folder / f".{key}.{os.getpid()}"
        shutil.copytree(place, unfinished)
        try:
            os.replace(unfinished, self._folder / key)
        except OSError:  # another one kept the same in between
            shutil.rmtree(unfinished)
        kept = sorted(
            (path for path in self._folder.iterdir() if path.name[0] != "."), key=lambda path: path.stat().st_mtime
        )
        for old in kept[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
