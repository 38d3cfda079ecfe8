"""What DVC has found up to date once, it is not asked about again until a file, a parameter or the lock's entry differs.

DVC knows a file again by inode, size and time too, but takes 23 us for each of them: 4.6 s for 200,000.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from dvc.dependency.param import ParamsDependency
from dvc.output import Output
from dvc.stage import Stage

from lm.files import write_json

FILE = Path(".scratch") / "seen.json"
# A file that changes twice within one tick of the kernel's clock, at most 10 ms, has one time.
TICK_NS = 100_000_000


class Signatures:
    """What stages look like from outside, without a byte of their files: each path is walked once."""

    def __init__(self) -> None:
        self._paths: dict[str, tuple[str, int]] = {}

    def of(self, stage: Stage, locked: dict[str, Any] | None) -> tuple[str, int]:
        """(signature, the newest time among its files in ns). locked: its entry of dvc.lock."""
        params = [dep.read_params(flatten=False) for dep in stage.deps if isinstance(dep, ParamsDependency)]
        items = [item for item in [*stage.deps, *stage.outs] if not isinstance(item, ParamsDependency)]
        found = [self._path(str(item.fs_path)) for item in items]
        known = [str(item.hash_info) for item in items]  # those of a .dvc file are in no lock
        cached = [_has(out) for out in stage.outs]
        parts = [stage.cmd, stage.frozen, params, locked, known, cached, [signature for signature, _ in found]]
        said = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(said.encode()).hexdigest(), max((newest for _, newest in found), default=0)

    def _path(self, path: str) -> tuple[str, int]:
        if path not in self._paths:
            digest, newest = hashlib.sha256(path.encode()), 0
            for name, status in [(path, _status(path)), *_below(path)]:
                if status:
                    parts = (
                        name,
                        status.st_mode,
                        status.st_ino,
                        status.st_size,
                        status.st_mtime_ns,
                        status.st_ctime_ns,
                    )
                    digest.update(repr(parts).encode())
                    newest = max(newest, status.st_mtime_ns, status.st_ctime_ns)
            self._paths[path] = digest.hexdigest(), newest
        return self._paths[path]


def _has(out: Output) -> bool:
    """Whether DVC's cache has an output, by the file that names it; a cache that was moved away has none."""
    return not out.use_cache or not out.hash_info or os.path.exists(out.cache.oid_to_path(out.hash_info.value))


def _status(path: str) -> os.stat_result | None:
    with suppress(OSError):
        return os.stat(path)
    return None


def _below(path: str) -> Iterator[tuple[str, os.stat_result | None]]:
    """Every file and folder below a folder, in order."""
    with suppress(OSError):  # no folder, gone meanwhile, or a link that leads back to itself
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            with suppress(OSError):
                yield entry.path, entry.stat()
            if entry.is_dir(follow_symlinks=False):  # DVC does not go behind a link either, which may lead back
                yield from _below(entry.path)


def recall(root: Path) -> dict[str, str]:
    """The signature under which each stage was up to date."""
    with suppress(OSError, ValueError):
        found = json.loads((root / FILE).read_text())
        return found if isinstance(found, dict) else {}
    return {}


def remember(root: Path, found: dict[str, tuple[str, int]]) -> None:
    """Keep the signatures of stages that are up to date, those aside whose files are of this very moment."""
    settled = time.time_ns() - TICK_NS
    known = recall(root)
    kept = known | {address: signature for address, (signature, newest) in found.items() if newest < settled}
    if kept != known:
        write_json(root / FILE, kept, shared=True)
