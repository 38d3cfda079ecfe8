"""Files of this machine and of remote stores through fsspec, decompressed on the way up to a stated limit."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, BinaryIO

import pyarrow as pa

from tasks.core.config import ConfigError
from tasks.core.hashed import hashed, read_ignored
from tasks.ingest.sources.base import EXCERPT, WEB, File, Rejected, excerpt_of

# A file of a few kilobytes may hold this much, however well it was compressed.
EXPANDS_FREELY = 64 << 20
ZSTD_READ, BUFFER = 1 << 16, 1 << 18
# What fsspec's ValueError says of a web server that sends all of a file, whatever part was asked for.
NO_PARTS = ("support range requests", "Got more bytes")
BOM = b"\xef\xbb\xbf"


class ExpandsTooFar(Exception):
    """A compressed file became larger than its source's max_expansion allows."""


class Damaged(Exception):
    """A compressed file is torn, or not what its name says."""


def is_url(path: str) -> bool:
    return "://" in path


def matching(folder: str, pattern: str, label: str) -> list[File]:
    """The files that a glob or a URL names, sorted. Raises ConfigError when there is none."""
    if is_url(pattern):
        found = remote_files(pattern, label)
    else:
        top = Path(folder)
        if not top.exists():
            raise ConfigError(f"ingest.folder: {folder}: no such folder (source {label})")
        matched = [path for path in top.glob(pattern) if path.is_file()]
        for place in {path.parent for path in matched}:
            check_inside(place, top, label)
        kept = set(hashed(top, read_ignored()).files)
        found = [local_file(path, top) for path in matched if path in kept]
    if not found:
        where = "" if is_url(pattern) else f" in {folder}"
        raise ConfigError(
            f"ingest.sources: {label}: no file matches {pattern!r}{where}: put files there, or name the folder that has "
            'them, as in SET="ingest.folder=/data/text"'
        )
    return sorted(found, key=lambda file: file.name)


def check_inside(place: Path, top: Path, label: str) -> None:
    """Raises ConfigError for a folder that a link puts below `top`: DVC does not look behind links to folders, so a change
    there would go unseen."""
    while place != top:
        if place.is_symlink():
            raise ConfigError(
                f"ingest.sources: {label}: {place} is a link to a folder, behind which DVC does not look: name the folder "
                "itself as ingest.folder, or move it here"
            )
        place = place.parent


def local_file(path: Path, top: Path) -> File:
    return File(str(path), path.relative_to(top).as_posix(), path.stat().st_size)


def remote_files(pattern: str, label: str) -> list[File]:
    """Those of a URL. Credentials come from the environment, as each store's own tools read them.

    Raises ConfigError when the store cannot be reached, and for a glob where a server has no list of its files.
    """
    from fsspec.core import url_to_fs

    on_web = pattern.startswith(WEB)
    if on_web and any(letter in pattern.partition("?")[0] for letter in "*["):
        raise ConfigError(
            f"ingest.sources: {label}: {pattern}: a web server does not list its files: name each, as a source with a "
            "label of its own"
        )
    try:
        store, path = url_to_fs(pattern)
        if not on_web and any(letter in path for letter in "*?["):
            found = store.glob(path, detail=True)
        else:
            found = {path: store.info(path)}
    except FileNotFoundError as error:
        if (status := getattr(error.__cause__, "status", 404)) != 404:
            raise ConfigError(f"ingest.sources: {label}: {pattern}: the server answers {status}") from None
        return []
    except (OSError, ImportError, ValueError) as error:
        raise ConfigError(f"ingest.sources: {label}: {pattern}: {type(error).__name__}: {error}") from None
    files = []
    for name, info in found.items():
        if info["type"] == "file":
            tags = (info.get(key) for key in ("ETag", "etag", "md5Hash", "crc32c", "LastModified", "mtime"))
            tag = next((str(tag) for tag in tags if tag), None)
            url = store.unstrip_protocol(name)
            files.append(File(url, url, info.get("size") or 0, tag, remote=True))
    return files


def open_raw(file: File) -> BinaryIO:
    """The bytes as they are stored; seekable."""
    if not file.remote:
        return open(file.path, "rb")
    from fsspec.core import url_to_fs

    store, path = url_to_fs(file.path)
    return store.open(path, "rb", block_size=8 << 20)


class _Counted(io.RawIOBase):
    """Decompressed bytes; raises ExpandsTooFar once they are more than the compressed ones read so far allow."""

    def __init__(self, packed: IO[bytes], plain: Any, max_expansion: int) -> None:
        self._packed, self._plain, self._max_expansion, self._given = packed, plain, max_expansion, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        data = self._decompress(len(view))
        view[: len(data)] = data
        self._given += len(data)
        if self._given > EXPANDS_FREELY and self._given > self._max_expansion * self._packed.tell():
            raise ExpandsTooFar(
                f"{self._packed.tell()} bytes became more than {self._given}; max_expansion is {self._max_expansion}"
            )
        return len(data)

    def _decompress(self, size: int) -> bytes:
        """Little at a time, so that what stands before a tear is not lost with it."""
        try:
            if isinstance(self._plain, gzip.GzipFile):
                return self._plain.read1(size)
            return self._plain.read(min(size, ZSTD_READ))
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise Damaged(f"{type(error).__name__}: {error}") from None
        except OSError as error:
            if "ZSTD" in str(error) or "compressed stream" in str(error):
                raise Damaged(str(error)) from None
            raise


@contextmanager
def open_file(file: File, max_expansion: int) -> Iterator[BinaryIO]:
    """The bytes of a file; .gz and .zst are decompressed."""
    with open_raw(file) as raw:
        if file.plain_path.endswith(".gz"):
            plain: Any = gzip.GzipFile(fileobj=raw)
        elif file.plain_path.endswith(".zst"):
            plain = pa.CompressedInputStream(
                pa.PythonFile(raw, mode="r"), "zstd"
            )  # zstandard's ends silently at a tear
        else:
            yield io.BufferedReader(raw, BUFFER) if file.remote else raw  # type: ignore[type-var]
            return
        yield io.BufferedReader(_Counted(raw, plain, max_expansion), BUFFER)


@contextmanager
def quarantined(file: File, found: list[Rejected], row: int = 0) -> Iterator[None]:
    """Turn what is wrong with a file into a rejected row of `found`.

    An error of a remote store is no fault of the file: it ends the stage, whose next run goes on where this one was.
    """
    try:
        yield
    except ExpandsTooFar as error:
        found.append(Rejected(row, "expands_too_far", excerpt_of(error)))
    except Damaged as error:
        found.append(Rejected(row, "unreadable", excerpt_of(error)))
    except ValueError as error:
        if file.remote and any(words in str(error) for words in NO_PARTS):
            raise OSError(
                f"{file.name}: the server sends the whole file where a part is asked for: "
                "download it, and name its folder as ingest.folder"
            ) from None
        raise
    except OSError as error:
        if file.remote:
            raise
        found.append(Rejected(row, "unreadable", excerpt_of(f"{type(error).__name__}: {error}")))


def read_lines(file: File, max_bytes: int, max_expansion: int) -> Iterator[tuple[int, bytes] | Rejected]:
    """(row, line) for each line, and what could not be read. Holds at most one line of max_bytes."""
    row, wrong = 0, list[Rejected]()
    with quarantined(file, wrong), open_file(file, max_expansion) as opened:
        while line := opened.readline(max_bytes + 1):
            if len(line) > max_bytes and not line.endswith(b"\n"):
                start = line[: 4 * EXCERPT]
                while line and not line.endswith(b"\n"):
                    line = opened.readline(1 << 20)
                row += 1
                yield Rejected(row, "line_too_long", excerpt_of(start))
            else:
                row += 1
                yield row, line.removeprefix(BOM) if row == 1 else line
    yield from after(wrong, row)
    if not row and not wrong:
        yield Rejected(0, "empty_file")


def after(wrong: list[Rejected], row: int) -> Iterator[Rejected]:
    """The same, said of the row that would have come next; of the whole file where there was none."""
    for rejected in wrong:
        yield replace(rejected, row=row + 1 if row else 0)
