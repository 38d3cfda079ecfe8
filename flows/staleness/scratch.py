"""What stages that were killed have left in .scratch/<stage>/<key>: what a run would go on from, and what none will.

`python -m flows.staleness.scratch` (`make clean`) removes the latter, what .scratch holds beside, and what killed toy runs have
left elsewhere; never what a stage that runs uses.
"""

import fcntl
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flows.staleness.rwlock import release_ended
from flows.staleness.toy_folders import remove_abandoned
from tasks.core.config import ConfigError, read_params
from tasks.core.yaml import YAMLError
from tasks.runner.graph import read_graph
from tasks.runner.key import Inputs
from tasks.runner.locks import LOCKS

SCRATCH = Path(".scratch")
# A stage key, and behind a dot what was set aside of another kind of machine (tasks/runner/resume.py)
KEY = re.compile(r"([0-9a-f]{64})(\..*)?")


@dataclass(frozen=True)
class Leftover:
    """The scratch of a stage under one key. wanted: whether that is the stage's key as parameters, code and data are now, so
    that a run would go on from it; true too where that cannot be told. size: bytes on disk."""

    stage: str
    path: Path
    wanted: bool
    size: int


def leftovers(root: Path) -> list[Leftover]:
    """The scratch of every stage, whether it runs or not."""
    found, graph = [], read_graph(root)
    for stage in graph:
        folders = sorted(path for path in (root / SCRATCH / stage).glob("*") if KEY.fullmatch(path.name))
        key = _key(root, stage) if folders else None
        found += [Leftover(stage, path, key is None or path.name.startswith(key), bytes_in(path)) for path in folders]
    return found


def _key(root: Path, stage: str) -> str | None:
    """Key of the stage as it would run now; None where a dependency is missing, or this process works in another folder."""
    if root.resolve() != Path.cwd():
        return None
    try:
        return Inputs(read_graph()[stage], read_params()).key
    except (OSError, ConfigError):
        return None


def bytes_in(folder: Path) -> int:
    """Bytes of the files below a folder, which others may change meanwhile."""
    total = 0
    for above, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(above, name)).st_size
    return total


def abandoned(root: Path) -> str:
    """How much no run will go on from, in a sentence; "" where there is none."""
    found = [left for left in leftovers(root) if not left.wanted]
    if not found:
        return ""
    stages, total = ", ".join(dict.fromkeys(left.stage for left in found)), size(sum(left.size for left in found))
    return (
        f".scratch holds {total} that no run goes on from, {len(found)} of stages as they are no more ({stages}); "
        "`make clean` removes it"
    )


def size(count: int) -> str:
    """Bytes in the unit that has a digit before the point."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Whether nobody holds the lock of this file; if so it is held, so that nobody begins meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def is_in_use(root: Path) -> bool:
    """Whether a run, a stage, a server or an agent of this checkout, or a DVC that somebody started, is going on."""
    locks = [
        *(root / LOCKS).glob("*"),
        *(root / SCRATCH).glob("*/*.lock"),
        *(root / SCRATCH).glob("worktrees/*/*.lock"),
    ]
    for path in locks:
        with try_lock(path) as free:
            if not free:
                return True
    return bool(release_ended(root))


def clean(root: Path) -> list[str]:
    """Remove what no run will go on from, the rest of .scratch where nothing is at work, and what killed toy runs left. Returns
    what was done, and what was kept and why, in lines."""
    said = _clean_scratch(root)
    with suppress(ConfigError, OSError):  # of a disk so full that there is no temporary folder to write to
        said += [f"removed {path}" for path in remove_abandoned(root)]
    return said


def _clean_scratch(root: Path) -> list[str]:
    said, kept = list[str](), {LOCKS.name}
    for left in leftovers(root):
        where = f"{left.path.relative_to(root)} ({size(left.size)})"
        with try_lock(root / LOCKS / left.stage) as free:
            if free and not left.wanted:
                shutil.rmtree(left.path)
                said.append(f"removed {where}")
                continue
        kept.add(left.stage)
        why = "the stage goes on from it" if free else "the stage is running"
        said.append(f"kept {where}: {why}")
    if is_in_use(root):
        return [*said, "kept the rest of .scratch: a run, a server or an agent of this checkout is at work"]
    for path in sorted((root / SCRATCH).glob("*")):
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return said


def main() -> int:
    """Exit code: 0, or 2 where dvc.yaml or params.yaml cannot be read or a file not be removed."""
    try:
        print("".join(f"{line}\n" for line in clean(Path.cwd())), end="")
    except (ConfigError, OSError, YAMLError) as error:
        print(f"make clean: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
