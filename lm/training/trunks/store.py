"""Trunks on disk: `<folder>/<stage>/<root>/step-00000340-<digest>.safetensors`, written whole or not at all.

A root is what decides a run whatever its steps; its parts are beside the trunks in decided.json, so that two roots can be
compared. One process writes at a time, under a lock that the kernel lets go when the process ends. Readers need none: a file
never changes, and one that is deleted while it is read stays until it is closed.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from lm.files import write_json
from lm.training.checkpoint.file import write
from lm.training.checkpoint.snapshot import Entry, size_of

DECIDED = "decided.json"
HEADER = 256  # bytes that a tensor takes in the file beside its own, at most


class Place(NamedTuple):
    """Step and digest that name a trunk's file. compiled: whether the blocks of its model were, which changes bits."""

    step: int
    digest: str
    compiled: bool

    @property
    def name(self) -> str:
        return f"step-{self.step:08}-{self.digest}{'-compiled' if self.compiled else ''}.safetensors"


def place_of(path: Path) -> Place:
    """The place that a file's name says."""
    step, digest, *compiled = path.stem.removeprefix("step-").split("-")
    return Place(int(step), digest, bool(compiled))


class TrunkStore:
    """All trunks of all stages in a folder that several processes share. `limit`: bytes that it may fill."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self._limit = folder, limit

    def trunks(self, stage: str, root: str) -> list[Path]:
        """The trunks of a root, the longest first."""
        try:
            return sorted((self.folder / stage / root).glob("step-*.safetensors"), reverse=True)
        except FileNotFoundError:  # another process has deleted the last of them and their folder
            return []

    def used(self, path: Path) -> bool:
        """Whether the trunk is there; those that were used last are deleted last."""
        try:
            os.utime(path)
        except OSError:
            return False
        return True

    def roots(self, stage: str) -> list[dict[str, str]]:
        """What decided each root that has trunks."""
        found = []
        for folder in sorted((self.folder / stage).glob("*")):
            with suppress(FileNotFoundError):  # another process has made room
                found.append(json.loads((folder / DECIDED).read_text()))
        return found

    def write(
        self,
        path: Path,
        entries: dict[str, Entry],
        data: list[memoryview],
        metadata: dict[str, str],
        decided: dict[str, str],
    ) -> bool:
        """Delete the trunks that were not used for longest until this one fits the limit too, and write it; False: it alone is
        too large.

        Raises OSError where the disk is full.
        """
        with self._lock():
            if not self._make_room(size_of(data) + HEADER * (1 + len(entries))):
                return False
            write_json(path.with_name(DECIDED), decided)
            write(path, entries, data, metadata)
        return True

    def _make_room(self, needed: int) -> bool:
        for leftover in self.folder.glob("*/*/*.unfinished"):  # of a process that was killed: who writes has the lock
            leftover.unlink()
        files = sorted(self._files(), key=lambda file: file[1])
        filled = sum(size for _, _, size in files)
        if needed > self._limit:
            return False
        for path, _, size in files:
            if filled + needed <= self._limit:
                break
            path.unlink(missing_ok=True)
            filled -= size
            if not self.trunks(path.parent.parent.name, path.parent.name):
                shutil.rmtree(path.parent)
        return True

    def _files(self) -> Iterator[tuple[Path, float, int]]:
        """(path, time of last use, bytes) of every trunk."""
        for path in self.folder.glob("*/*/step-*.safetensors"):
            try:
                found = path.stat()
            except FileNotFoundError:  # another process has made room
                continue
            yield path, found.st_mtime, found.st_size

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
