"""What a file is to a stage: a dependency, its output, scratch, the runner's, a library's, the system's, or outside its key."""

import ast
import os
import sys
import sysconfig
import tempfile
from importlib.util import source_from_cache
from pathlib import Path

from lm.inputs.hashed import PATTERNS
from tasks.runner.graph import Entry
from tasks.runner.own import cache_folder

# The folder that holds our packages; in a project whose code is linked it is another than the project.
CODE_ROOT = Path(__file__).resolve().parent.parent.parent
CODE = ("tasks", "lm", "kernels")
RUNNER = (("tasks", "runner"), ("tasks", "audit"))  # starts, records and watches a stage, and decides none of its bytes
SYSTEM = ("/proc", "/sys", "/dev", "/etc", "/usr", "/lib", "/lib64", "/bin", "/sbin", "/run", "/var/lib")
UNWATCHED = {*CODE, "flows", "tests", "benchmarks", "__pycache__", "store"}


class Places:
    """What each file is to one stage of one project."""

    def __init__(self, entry: Entry, root: Path) -> None:
        self._entry, self._root = entry, root
        installed = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), *sys.path}
        libraries = {
            path for path in map(Path, filter(None, installed)) if path.resolve() not in (root.resolve(), CODE_ROOT)
        }
        self._libraries = {path.absolute() for path in libraries} | {path.resolve() for path in libraries}
        self._shared = (*SYSTEM, tempfile.gettempdir(), cache_folder())
        self._declared = [_plain(root / path) for path in (*entry.deps, *entry.outs)]

    def kind_of(self, name: str, listed: bool = False) -> tuple[str, str]:
        """What the file of this absolute name is, and its name in the project where it has one. A folder that was listed counts
        as what is in it."""
        path = Path(name)
        if path.suffix == ".pyc":
            path = Path(source_from_cache(name)) if path.parent.name == "__pycache__" else path
        if any(path.is_relative_to(place) for place in self._libraries):
            return "library", str(path)
        inside = self._inside(path)
        if inside is None:
            return self._elsewhere(path), str(path)
        parts = inside.parts
        if parts[:1] == (".scratch",) or "__pycache__" in parts:
            return "scratch", inside.as_posix()
        if inside == Path(PATTERNS):  # says what of a dependency is hashed, so a change of it is one of that digest
            return "dependency", PATTERNS
        if parts[:2] in RUNNER and not listed:
            return "runner", inside.as_posix()
        for kind, places in (("dependency", self._entry.deps), ("output", self._entry.outs)):
            if any(inside.is_relative_to(place) for place in places):
                return kind, inside.as_posix()
        if not listed and parts[:1] and parts[0] in CODE and self._unchosen(inside):
            return "unchosen", inside.as_posix()
        return "outside", inside.as_posix()

    def _inside(self, path: Path) -> Path | None:
        """Path in the project, or in the folder of our packages where it is one of theirs; None for one elsewhere."""
        for root in (self._root, self._root.resolve()):
            if path.is_relative_to(root):
                return path.relative_to(root)
        return path.relative_to(CODE_ROOT) if any(path.is_relative_to(CODE_ROOT / name) for name in CODE) else None

    def _elsewhere(self, path: Path) -> str:
        if any(path.is_relative_to(place) for place in self._declared):
            return "dependency"
        ours = path.is_relative_to(CODE_ROOT)
        return "system" if any(path.is_relative_to(place) for place in self._shared) and not ours else "outside"

    def _unchosen(self, path: Path) -> bool:
        """Whether it is an __init__ without code, or that of a room, which lists methods, or a method that this imports and
        params do not choose. A room is where a file is a dependency and the __init__ that imports all is not."""
        first = CODE_ROOT / path.parent / "__init__.py"
        lists = first.exists() and any(not isinstance(node, ast.Expr) for node in ast.parse(first.read_text()).body)
        is_room = lists and any(Path(dep).parent == path.parent for dep in self._entry.deps)
        return is_room or (path.name == "__init__.py" and not lists)

    def watched(self) -> list[Path]:
        """The folders where an open of any code counts: those of the project but for code, and dependencies elsewhere."""
        found, waiting = [], [self._root, *(path for path in self._declared if path.is_dir())]
        while waiting:
            folder = waiting.pop()
            if folder not in found:
                found.append(folder)
                waiting += [p for p in folder.iterdir() if p.is_dir() and p.name not in UNWATCHED and p.name[0] != "."]
        return found


def _plain(path: Path) -> Path:
    """Absolute, without `..`; links stay, since a file is known by the name under which it is opened."""
    return Path(os.path.normpath(path.absolute()))
