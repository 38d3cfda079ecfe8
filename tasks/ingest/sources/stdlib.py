"""The documentation and code of the Python that runs this: a corpus that every machine has, without a download.

Three kinds of documents: modules of the standard library (large ones in pieces), the language reference that `help()`
shows (pydoc_data.topics), and the docstrings of what is written in C and has no source here. The Python version decides
the bytes: ingest.python pins it.
"""

import ast
import builtins
import importlib
import inspect
import os
import platform
import sys
import sysconfig
from collections.abc import Iterator
from hashlib import blake2b
from itertools import chain, count
from pathlib import Path
from pydoc_data.topics import topics
from typing import ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from tasks.core.held_out import GROUP
from tasks.ingest.sources.base import File, Record, Rejected, Source, excerpt_of
from tasks.ingest.sources.rows import to_batches, to_json

# Not documentation of Python: tests, bundled wheels, generated tables, other people's packages.
LEFT_OUT = {
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "site-packages",
    "dist-packages",
    "__pycache__",
    "turtledemo",
    "ensurepip",
}
LEFT_OUT |= {"pydoc_data", "__phello__"}


def module_files(folder: Path) -> list[Path]:
    """The modules in the order they are read: `encodings` first, whose near-identical codecs dedup is to find, then the
    others as a hash of their name says, so that a small budget still sees a bit of everything."""
    found = list[Path]()
    for at, folders, names in os.walk(folder):
        folders[:] = set(folders) - LEFT_OUT
        found += [Path(at, name) for name in names if name.endswith(".py") and not name.startswith("_sysconfigdata")]

    def place(path: Path) -> tuple[bool, bytes]:
        name = path.relative_to(folder).as_posix()
        return not name.startswith("encodings/"), blake2b(name.encode(), digest_size=8).digest()

    return sorted(found, key=place)


def group(pieces: list[str], max_bytes: int) -> list[str]:
    """Neighbouring pieces put together as long as they stay within max_bytes; a larger piece is divided at its lines."""
    groups, size = [""], 0
    for piece in pieces:
        parts = [piece] if len(piece.encode()) <= max_bytes else piece.splitlines(keepends=True)
        for part in parts:
            length = len(part.encode())
            if size and size + length > max_bytes:
                groups.append("")
                size = 0
            groups[-1] += part
            size += length
    return [text for text in groups if text.strip()]


def module_pieces(source: str, max_bytes: int) -> list[str]:
    """A module as documents: whole when it is short, else divided between its top-level statements."""
    if len(source.encode()) <= max_bytes:
        return [source]
    lines = source.splitlines(keepends=True)
    firsts = [
        min([s.lineno, *(d.lineno for d in getattr(s, "decorator_list", []))]) - 1 for s in ast.parse(source).body
    ]
    edges = [0, *firsts[1:], len(lines)]
    return group(["".join(lines[a:b]) for a, b in zip(edges, edges[1:], strict=False)], max_bytes)


def docstrings(owner: object, name: str) -> str:
    """The docstrings of a type or module written in C: its own, then those of its public members.

    Of the hooks that a program may put others in place of, those of Python itself, such as sys.__excepthook__.
    """
    parts = [f"{name}\n\n{inspect.getdoc(owner) or ''}\n"]
    for member, value in sorted(vars(owner).items()):
        if inspect.ismodule(owner):
            value = vars(owner).get(f"__{member}__", value)
        text = inspect.getdoc(value) if callable(value) else None
        if text and not member.startswith("_"):
            parts.append(f"\n{name}.{member}\n    " + text.replace("\n", "\n    ") + "\n")
    return "".join(parts)


def c_documents() -> Iterator[tuple[str, str]]:
    """(name, text) of the builtin types and of the modules that are compiled into this Python."""
    for name, value in sorted(vars(builtins).items()):
        if isinstance(value, type) and not name.startswith("_"):
            yield f"doc/builtins.{name}", docstrings(value, name)
    for name in sorted(sys.builtin_module_names):
        if name not in ("builtins", "__main__"):
            yield f"doc/{name}", docstrings(importlib.import_module(name), name)


class Stdlib(Source):
    name: Literal["stdlib"] = "stdlib"
    max_document_bytes: int = Field(4000, gt=0, description="longer modules and topics are divided")

    endless: ClassVar[bool] = True

    def files(self, folder: str) -> list[File]:
        return [File("stdlib", "stdlib")]

    def read(self, file: File, seed: int) -> Iterator[pa.RecordBatch | Rejected]:
        yield from to_batches(self.rows())

    def rows(self) -> Iterator[Record | Rejected]:
        """The pieces of every module; ids are made of the module's name and the piece's number. A module is held out whole."""
        library, row = Path(sysconfig.get_path("stdlib")), count(1)
        for name, pieces in self._modules(library):
            if isinstance(pieces, Rejected):
                yield pieces
                continue
            meta = to_json({"python": platform.python_version(), GROUP: name})
            for number, piece in enumerate(pieces, 1):
                yield Record(next(row), piece, f"{self.called}:{name}:{number}", meta)

    def _modules(self, library: Path) -> Iterator[tuple[str, list[str] | Rejected]]:
        documentation = ((f"topics/{name}", text) for name, text in sorted(topics.items()))
        for name, text in chain(c_documents(), documentation):
            yield name, group(text.splitlines(keepends=True), self.max_document_bytes)
        for path in module_files(library):
            name = path.relative_to(library).as_posix()
            try:
                yield name, module_pieces(path.read_text(encoding="utf-8"), self.max_document_bytes)
            except (UnicodeDecodeError, SyntaxError, OSError) as error:
                yield name, Rejected(0, "unreadable", excerpt_of(f"{name}: {type(error).__name__}: {error}"))
