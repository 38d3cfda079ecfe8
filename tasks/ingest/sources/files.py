"""Files of this machine and of remote stores through fsspec, decompressed on the way up to a stated limit."""

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from lm.inputs.compressed import Damaged, ExpandsTooFar
from lm.inputs.encodings import Recoded
from lm.inputs.hashed import check_no_link, read_ignored, scan_dependency
from lm.inputs.text import BUFFER, as_utf8, plain_bytes, without_mark
from tasks.core.config import ConfigError
from tasks.ingest.sources.base import EXCERPT, WEB, File, Rejected, excerpt_of

# A first line, outside quotes, that ends in a carriage return; several before a line feed are one end.
OLD_END = re.compile(rb'(?:"[^"]*+"|[^"\r\n])*+\r+(?![\r\n])')
# What fsspec's ValueError says of a web server that sends all of a file, whatever part was asked for.
NO_PARTS = ("support range requests", "Got more bytes")


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
            check_no_link(place, top)
        kept = set(scan_dependency(top, read_ignored()).files)
        found = [local_file(path, top) for path in matched if path in kept]
    if not found:
        raise none_of(pattern, label, "" if is_url(pattern) else folder, () if is_url(pattern) else kept)
    return sorted(found, key=lambda file: file.name)


def none_of(pattern: str, label: str, folder: str, others: Iterable[Path]) -> ConfigError:
    """The error of a source without a file. folder: where the pattern was looked for, "" for a URL. others: files that are
    there, whose endings are said, since they may be another source's."""
    where = f" in {folder}" if folder else ""
    endings = Counter("".join(path.suffixes[-2:]) or path.name for path in others)
    there = ", ".join(f"{count} of {ending}" for ending, count in endings.most_common(3))
    return ConfigError(
        f"ingest.sources: {label}: no file matches {pattern!r}{where}{f', which has {there}' if there else ''}: "
        f"{'name the source and the pattern that read those' if there else 'put files there'}, or name the folder that has "
        'them, as in SET="ingest.folder=/data/text"'
    )


def local_file(path: Path, top: Path) -> File:
    return File(str(path), path.relative_to(top).as_posix(), path.stat().st_size)


def remote_files(pattern: str, label: str) -> list[File]:
    """Files of a URL or a glob. Credentials come from the environment, as each store's own tools read them.

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


def top_of(url: str) -> str:
    """How the names of the files below a URL begin."""
    from fsspec.core import url_to_fs

    store, path = url_to_fs(url)
    return f"{store.unstrip_protocol(path).rstrip('/')}/"


def open_raw(file: File) -> BinaryIO:
    """The bytes as they are stored; seekable."""
    if not file.remote:
        return open(file.path, "rb")
    from fsspec.core import url_to_fs

    store, path = url_to_fs(file.path)
    return store.open(path, "rb", block_size=8 << 20)


@contextmanager
def open_file(file: File, max_expansion: int) -> Iterator[BinaryIO]:
    """The bytes of a file as `plain_bytes` gives them."""
    with open_raw(file) as raw, plain_bytes(raw, file.plain_path, max_expansion) as plain:
        yield io.BufferedReader(plain, BUFFER) if file.remote and plain is raw else plain  # type: ignore[type-var]


@contextmanager
def open_text(file: File, max_expansion: int, encoding: str) -> Iterator[BinaryIO]:
    """The bytes of a text as UTF-8."""
    with open_file(file, max_expansion) as opened, as_utf8(opened, encoding) as text:
        yield text


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


def read_lines(
    file: File, max_bytes: int, max_expansion: int, encoding: str = "utf-8", old_ends: bool = False
) -> Iterator[tuple[int, bytes] | Rejected]:
    """(row, line in UTF-8) for each line, and what could not be read. Holds at most one line of max_bytes. A byte order mark at
    the beginning of a line, as a file has that was put together of others, is no part of it. old_ends: carriage returns alone
    end the lines of a file whose first line has such an end."""
    row, wrong = 0, list[Rejected]()
    with quarantined(file, wrong), open_text(file, max_expansion, encoding) as opened:
        if old_ends and OLD_END.match(opened.peek()):  # type: ignore[attr-defined]
            opened = io.BufferedReader(Recoded(opened, "utf-8", one_end=True), BUFFER)  # type: ignore[arg-type]
        while line := opened.readline(max_bytes + 1):
            if len(line) > max_bytes and not line.endswith(b"\n"):
                start = line[: 4 * EXCERPT]
                while line and not line.endswith(b"\n"):
                    line = opened.readline(1 << 20)
                row += 1
                yield Rejected(row, "line_too_long", excerpt_of(start))
            else:
                row += 1
                yield row, without_mark(line)
    yield from after(wrong, row)
    if not row and not wrong:
        yield Rejected(0, "empty_file")


def after(wrong: list[Rejected], row: int) -> Iterator[Rejected]:
    """Rejections as said of the row that would have come next; of the whole file where there was none."""
    for rejected in wrong:
        yield replace(rejected, row=row + 1 if row else 0)
