"""The stage key: a digest of all that decides a stage's output, made of the very digests that DVC compares."""

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from lm.inputs.hashed import IgnorePatterns, check_not_ignored, read_ignored, scan_dependency
from tasks.core.config import read_params
from tasks.runner.graph import Entry
from tasks.runner.recorded import decides, key_of, locked_decisions


def file_md5(path: Path) -> str:
    """md5 of a file's bytes, as DVC 3 computes it."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def path_md5(path: Path, ignored: IgnorePatterns) -> str:
    """DVC's md5 of a file, or of a folder: the md5 of its sorted listing, with `.dir` after it."""
    if path.is_file():
        return file_md5(path)
    return listing_md5({p.relative_to(path).as_posix(): file_md5(p) for p in scan_dependency(path, ignored).files})


def listing_md5(md5s: dict[str, str]) -> str:
    """DVC's md5 of a folder that has files of these names below it with these md5."""
    listing = [{"md5": md5s[name], "relpath": name} for name in sorted(md5s)]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def dependency_md5s(entry: Entry, ignored: IgnorePatterns) -> dict[str, str]:
    """md5 of each dependency. Raises FileNotFoundError naming the one that is missing, and ConfigError one that DVC ignores."""
    for path in entry.deps:
        if not Path(path).exists():
            raise FileNotFoundError(
                f"{entry.address}: its dependency {path} does not exist; has the stage before it run?"
            )
        check_not_ignored(Path(path), ignored)
    return {path: path_md5(Path(path), ignored) for path in entry.deps}


def signature(entry: Entry, ignored: IgnorePatterns) -> list[tuple[str, int, int, int]]:
    """(file, size, times of last change of its bytes and of its entry) of all dependencies: differs when a digest could."""
    files = [(p.as_posix(), p.stat()) for path in entry.deps for p in scan_dependency(Path(path), ignored).files]
    return [(name, found.st_size, found.st_mtime_ns, found.st_ctime_ns) for name, found in files]


def stage_key(entry: Entry, md5s: dict[str, str], params: dict[str, Any]) -> str:
    """sha256 of command, dependencies and what the stage declares of params, the versions of its libraries among it."""
    return key_of(decides(entry.cmd, md5s, entry.declared(params)))


def memo_key(entry: Entry, md5s: dict[str, str], params: dict[str, Any]) -> str:
    """The stage key without what depends on data: the same as long as each input by itself gives the same."""
    code = {path: md5 for path, md5 in md5s.items() if not path.startswith("data/")}
    return stage_key(entry, code, params)


def locked_key(entry: dict[str, Any]) -> str:
    """The stage key out of a stage's entry in dvc.lock: that of the run which made the bytes recorded there."""
    return key_of(locked_decisions(entry))


class Changed(Exception):
    """What decides the output was edited while the stage ran; the message is one line that names it.

    spared: whether what the stage has saved so far was made without a look at the edited files.
    """

    def __init__(self, message: str, spared: bool) -> None:
        super().__init__(message)
        self.spared = spared


class Inputs:
    """What decides a stage's output, as it was before the stage began."""

    def __init__(self, entry: Entry, params: dict[str, Any]) -> None:
        self.entry, self.params = entry, entry.declared(params)
        self._ignored = read_ignored()
        self._signature = signature(entry, self._ignored)
        self._imported = {str(getattr(module, "__file__", None)) for module in list(sys.modules.values())}
        self.md5s = dependency_md5s(entry, self._ignored)
        self.decides = decides(entry.cmd, self.md5s, self.params)
        self.key = key_of(self.decides)
        self.memo_key = memo_key(entry, self.md5s, params)

    def code_changed_since(self, began: int) -> bool:
        """Whether a file of code among the dependencies has changed between this time, in ns, and now. A time to come, which a
        file server's clock may give, says nothing."""
        return any(began < at <= time.time_ns() for name, _, _, at in self._signature if name.endswith(".py"))

    def check_unchanged(self) -> None:
        """Raises Changed naming what was edited since. DVC hashes dependencies and reads params after a stage ends, so it
        would record the edited ones as what made the output."""
        now = self.entry.declared(read_params())
        changed = [f"{name} of params.yaml" for name in self.entry.params if now.get(name) != self.params.get(name)]
        files: list[str] = []
        try:
            after = signature(self.entry, self._ignored)
            md5s = self.md5s if after == self._signature else dependency_md5s(self.entry, self._ignored)
        except FileNotFoundError as error:
            gone = error.filename or next((path for path in self.entry.deps if not Path(path).exists()), "a dependency")
            raise Changed(f"{self.entry.address}: {gone} went while the stage ran; run it again", False) from None
        touched = {path for path, *_ in set(after) ^ set(self._signature)}
        for path in [path for path, md5 in md5s.items() if md5 != self.md5s[path]]:
            inside = sorted(p for p in touched if Path(path) in Path(p).parents)
            files += inside or [path]
            changed.append(path + (f" ({', '.join(inside[:3])})" if inside else ""))
        if changed:
            spared = all(str(Path(name).absolute()) in self._imported for name in files)
            raise Changed(
                f"{self.entry.address}: {', '.join(changed)} changed while the stage ran; run it again", spared
            )
