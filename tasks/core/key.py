"""The stage key: a digest of all that decides a stage's output, made of the very digests that DVC compares."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tasks.core.config import read_params
from tasks.core.graph import Entry
from tasks.core.hashed import Ignored, hashed, read_ignored


def file_md5(path: Path) -> str:
    """md5 of a file's bytes, as DVC 3 computes it."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def path_md5(path: Path, ignored: Ignored) -> str:
    """DVC's md5 of a file, or of a folder: the md5 of its sorted listing, with `.dir` after it."""
    if path.is_file():
        return file_md5(path)
    return listing_md5({p.relative_to(path).as_posix(): file_md5(p) for p in hashed(path, ignored).files})


def listing_md5(md5s: dict[str, str]) -> str:
    """DVC's md5 of a folder that has files of these names below it with these md5."""
    listing = [{"md5": md5s[name], "relpath": name} for name in sorted(md5s)]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def dependency_md5s(entry: Entry, ignored: Ignored) -> dict[str, str]:
    """md5 of each dependency. Raises FileNotFoundError naming the one that is missing."""
    for path in entry.deps:
        if not Path(path).exists():
            raise FileNotFoundError(
                f"{entry.address}: its dependency {path} does not exist; has the stage before it run?"
            )
    return {path: path_md5(Path(path), ignored) for path in entry.deps}


def signature(entry: Entry, ignored: Ignored) -> list[tuple[str, int, int, int]]:
    """(file, size, times of last change of its bytes and of its entry) of all dependencies: differs when a digest could."""
    files = [(p.as_posix(), p.stat()) for path in entry.deps for p in hashed(Path(path), ignored).files]
    return [(name, found.st_size, found.st_mtime_ns, found.st_ctime_ns) for name, found in files]


def stage_key(entry: Entry, md5s: dict[str, str], params: dict[str, Any]) -> str:
    """sha256 of command, dependencies and what the stage declares of params, the versions of its libraries among it."""
    return _digest(entry.cmd, md5s, entry.declared(params))


def memo_key(entry: Entry, md5s: dict[str, str], params: dict[str, Any]) -> str:
    """The stage key without what depends on data: the same as long as each input by itself gives the same."""
    code = {path: md5 for path, md5 in md5s.items() if not path.startswith("data/")}
    return stage_key(entry, code, params)


def locked_key(locked: dict[str, Any]) -> str:
    """The stage key out of a stage's entry in dvc.lock: that of the run which made the bytes recorded there."""
    md5s = {dep["path"]: dep["md5"] for dep in locked.get("deps", [])}
    return _digest(locked["cmd"], md5s, locked.get("params", {}).get("params.yaml", {}))


def _digest(cmd: str, md5s: dict[str, str], params: dict[str, Any]) -> str:
    decides = {"cmd": cmd, "deps": md5s, "params": params}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


class Inputs:
    """What decides a stage's output, as it was before the stage began."""

    def __init__(self, entry: Entry, params: dict[str, Any]) -> None:
        self.entry, self.params = entry, entry.declared(params)
        self._ignored = read_ignored()
        self._signature = signature(entry, self._ignored)
        self.md5s = dependency_md5s(entry, self._ignored)
        self.key = stage_key(entry, self.md5s, params)
        self.memo_key = memo_key(entry, self.md5s, params)

    def check_unchanged(self) -> None:
        """Raises RuntimeError naming what was edited since. DVC hashes dependencies and reads params after a stage ends,
        so it would record the edited ones as what made the output."""
        now, after = self.entry.declared(read_params()), signature(self.entry, self._ignored)
        changed = [f"{name} of params.yaml" for name in self.entry.params if now.get(name) != self.params.get(name)]
        if after != self._signature:
            touched = {path for path, *_ in set(after) ^ set(self._signature)}
            for path, md5 in dependency_md5s(self.entry, self._ignored).items():
                if md5 != self.md5s[path]:
                    inside = sorted(p for p in touched if Path(path) in Path(p).parents)
                    changed.append(path + (f" ({', '.join(inside[:3])})" if inside else ""))
        if changed:
            raise RuntimeError(f"{self.entry.address}: {', '.join(changed)} changed while the stage ran; run it again")
