"""What a process touches while a stage is audited: files that Python opens or lists, and variables of the environment.

Every process writes its own file, a line for each thing, so that one which is killed leaves what it had seen.
"""

import json
import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from tasks.audit.places import CODE_ROOT

TRACES = "TOKENMILL_AUDIT_TRACES"
RECORDS = Path(".scratch/audit")
OPENS = {"open", "os.mkdir", "os.remove", "os.rename", "os.link", "os.symlink", "os.truncate"}
LISTS = {"os.listdir", "os.scandir"}
IMPORTERS = (
    "<frozen importlib",
    "/importlib/",
    "/importlib_metadata/",
)  # they list the folders of the path to find packages
COMPILED_UNDER = "/tasks/core/jit.py"
HANDED_ON = {"copy", "__or__", "__ror__"}  # of os.environ: to start a process with, which then reads what it reads


class Recorder:
    """Writes down what this process touches from now on, until `stop`. The hook and its file stay: Python cannot take a hook
    away, and another thread may be in it."""

    def __init__(self, folder: Path) -> None:
        self._fd = os.open(folder / f"{os.getpid()}.jsonl", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self._seen: set[tuple[str, str]] = set()
        self._copied_at: tuple[int, int] | None = None
        self._on = True
        sys.addaudithook(self._hook)
        self._getitem, self._iter = os._Environ.__getitem__, os._Environ.__iter__
        os._Environ.__getitem__ = self._look_up(self._getitem)  # type: ignore[method-assign]
        os._Environ.__iter__ = self._iterate(self._iter)  # type: ignore[method-assign]

    def stop(self) -> None:
        self._on = False
        os._Environ.__getitem__ = self._getitem  # type: ignore[method-assign]
        os._Environ.__iter__ = self._iter  # type: ignore[method-assign]

    def _add(self, how: str, name: str) -> None:
        if (how, name) not in self._seen:
            self._seen.add((how, name))
            os.write(self._fd, json.dumps([how, name]).encode() + b"\n")

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._on or not (event in OPENS or event in LISTS):
            return
        listed = event in LISTS
        frame = sys._getframe(1)
        if (listed and any(name in frame.f_code.co_filename for name in IMPORTERS)) or _names_a_cache(frame):
            return
        for path in args[: 2 if event in ("os.rename", "os.link") else 1]:
            if isinstance(path, str | bytes | os.PathLike):
                self._add("list" if listed else "open", os.path.abspath(os.fsdecode(path)))
            elif listed and path is None:
                self._add("list", os.getcwd())

    def _iterate(self, read: Any) -> Any:
        """Notes where in the code the whole environment is gone through."""

        def iterate(environ: Any) -> Any:
            frame, _ = _caller(sys._getframe(1))
            self._copied_at = _place(frame)
            return read(environ)

        return iterate

    def _look_up(self, read: Any) -> Any:
        """A look-up in os.environ that is written down: of any variable where our code looks, of those that are set where a
        library does; libraries look for hundreds that nobody sets."""

        def getitem(environ: Any, name: str) -> str:
            frame, copied = _caller(sys._getframe(1))
            if self._on and not copied and isinstance(name, str):
                copied_by_library = self._copied_at == _place(frame)
                if _is_ours(frame) or (os.fsencode(name) in environ._data and not copied_by_library):
                    self._add("variable", name)
            return read(environ, name)

        return getitem


def _names_a_cache(frame: FrameType | None) -> bool:
    """Whether the digest under which compiled code is kept is being made: it is of more files than the stage's, and decides
    where the code is and nothing else."""
    while frame:
        if frame.f_code.co_filename.endswith(COMPILED_UNDER) and frame.f_code.co_name == "digest":
            return True
        frame = frame.f_back
    return False


def _caller(frame: FrameType | None) -> tuple[FrameType | None, bool]:
    """The code that looks a variable up, and whether it copies the whole environment for a process that it starts."""
    copied = False
    while frame and frame.f_globals.get("__name__") in ("os", "_collections_abc", "collections.abc"):
        copied = copied or frame.f_code.co_name in HANDED_ON
        frame = frame.f_back
    return frame, copied


def _place(frame: FrameType | None) -> tuple[int, int] | None:
    return (id(frame), frame.f_lasti) if frame else None


def _is_ours(frame: FrameType | None) -> bool:
    """Whether a look-up is in code of the project. A library in C has no frame of its own, so the code must name it."""
    if frame is None:
        return False
    file, names = frame.f_code.co_filename, frame.f_code.co_names
    here = file.startswith((f"{CODE_ROOT}/", f"{os.getcwd()}/")) and "/site-packages/" not in file
    return here and not {"environ", "getenv"}.isdisjoint(names)


def join_audit() -> None:
    """Have this process, which works for an audited stage, write down what it touches; nothing where none is audited."""
    if folder := os.environ.get(TRACES):
        Recorder(Path(folder))


def read_traces(folder: Path) -> set[tuple[str, str]]:
    """(open, list or variable; name) of all processes. A line that a killed process left unfinished is passed over."""
    found = set()
    for path in folder.glob("*.jsonl"):
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                how, name = json.loads(line)
                found.add((how, name))
    return found
