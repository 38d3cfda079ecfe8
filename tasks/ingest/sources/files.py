"""Files of this machine and of remote stores through fsspec, decompressed on the way up to a stated limit."""

import codecs
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from tasks.core.config import ConfigError
from tasks.core.hashed import hashed, read_ignored
from tasks.ingest.sources.base import EXCERPT, WEB, File, Rejected, excerpt_of
from tasks.ingest.sources.compressed import (
    HEAD,
    SUFFIXES,
    Damaged,
    ExpandsTooFar,
    Plain,
    foreign_kind,
    kind_of,
)
from tasks.ingest.sources.encodings import BOM, Recoded, encoding_of

BUFFER = 1 << 18
# A first line, outside quotes, that ends in a carriage return; several before a line feed are one end.
OLD_END = re.compile(rb'(?:"[^"]*+"|[^"\r\n])*+\r+(?![\r\n])')
SEEN = 8  # bytes of a text that tell its encoding
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
            check_inside(place, top, label)
        kept = set(hashed(top, read_ignored()).files)
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


def open_raw(file: File) -> BinaryIO:
    """The bytes as they are stored; seekable."""
    if not file.remote:
        return open(file.path, "rb")
    from fsspec.core import url_to_fs

    store, path = url_to_fs(file.path)
    return store.open(path, "rb", block_size=8 << 20)


@contextmanager
def open_file(file: File, max_expansion: int) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed where its first bytes say that it is compressed, whatever its name.

    Raises Damaged where the name alone says so, and for what holds no text by itself.
    """
    with open_raw(file) as raw:
        head = raw.read(HEAD)
        raw.seek(0)
        stated = next((kind for suffix, kind in SUFFIXES.items() if file.plain_path.endswith(suffix)), None)
        if kind := kind_of(head):
            yield Plain(raw, kind, max_expansion)  # type: ignore[misc] # the part of it that is used here
        elif head and stated:
            raise Damaged(f"not {stated}, as its name says")
        elif foreign := foreign_kind(head):
            raise Damaged(f"is {foreign}")
        else:
            yield io.BufferedReader(raw, BUFFER) if file.remote else raw  # type: ignore[type-var]


@contextmanager
def open_text(file: File, max_expansion: int, encoding: str) -> Iterator[BinaryIO]:
    """The bytes of a text as UTF-8, from whatever encoding its mark says, else from the one that is stated."""
    with open_file(file, max_expansion) as opened:
        buffered = opened if isinstance(opened, io.BufferedReader) else io.BufferedReader(opened, BUFFER)  # type: ignore[type-var]
        found = encoding_of(buffered.peek(SEEN)[:SEEN], encoding)
        if codecs.lookup(found).name == "utf-8":
            yield buffered
        else:
            yield io.BufferedReader(Recoded(buffered, found), BUFFER)  # type: ignore[arg-type]


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


def without_mark(line: bytes) -> bytes:
    """The line without byte order marks at its beginning."""
    while line.startswith(BOM):
        line = line.removeprefix(BOM)
    return line


def after(wrong: list[Rejected], row: int) -> Iterator[Rejected]:
    """Rejections as said of the row that would have come next; of the whole file where there was none."""
    for rejected in wrong:
        yield replace(rejected, row=row + 1 if row else 0)
