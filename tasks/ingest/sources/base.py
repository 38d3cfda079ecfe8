"""What a source is: settings that all have in common, the files it lists, and the rows it yields."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
from pydantic import Field

from lm.config import Config

# A batch as a source yields it. Texts and ids may be null, empty, or not UTF-8: tasks/ingest/checks.py looks at them.
ROWS = pa.schema([("row", pa.int64()), ("id", pa.string()), ("text", pa.large_string()), ("meta", pa.string())])
EXCERPT = 200
# Fields that are named in a message, and what texts are called elsewhere.
SHOWN = 12
USUAL_NAMES = (
    "text",
    "content",
    "contents",
    "body",
    "document",
    "raw_content",
    "article",
    "markdown",
    "sentence",
    "story",
)
WEB = ("http://", "https://")
# What a signed link calls its secret (Amazon, Google, Azure), and what others do.
SECRETS = re.compile(
    r"(x-(amz|goog)-)?(signature|credential|security-token)|sig|(api|access)?[_-]?(key|token)|secret|password", re.I
)


@dataclass(frozen=True)
class File:
    """An input file. name: as quarantine and origins call it. bytes and tag (an etag or checksum) are those that a remote
    store states; a file of this machine has no tag."""

    path: str
    name: str
    bytes: int = 0
    tag: str | None = None
    remote: bool = False

    @property
    def plain_path(self) -> str:
        """The path without the query of a link: its ending says what the file is."""
        return self.path.partition("?")[0] if self.path.startswith(WEB) else self.path


@dataclass(frozen=True)
class Record:
    """A document as read. row counts from 1; `id` is None where the row has none of its own; meta is JSON."""

    row: int
    text: Any
    id: Any = None
    meta: str = "{}"


@dataclass(frozen=True)
class Rejected:
    """A row that cannot be used. row counts from 1; 0 stands for the whole file."""

    row: int
    reason: str
    excerpt: str = ""


class Source(Config):
    """A source takes up to its weight's share of ingest.max_bytes, and never more than `limit`.

    endless: it makes documents up for as long as it is asked, so reading stops at the share.
    """

    label: str | None = Field(None, description="the documents' source; the method's name when absent")
    weight: float = Field(1.0, gt=0, description="share of ingest.max_bytes, relative to the other sources")
    limit: int | None = Field(None, gt=0, description="UTF-8 bytes of text that this source gives at most")
    licence: str | None = Field(None, description="recorded in sources.parquet; nothing checks it")

    endless: ClassVar[bool] = False

    @property
    def called(self) -> str:
        """What the documents' column `source` says."""
        return self.label or str(getattr(self, "name"))  # noqa: B009 - each method has its own literal

    def files(self, folder: str) -> list[File]:
        """What there is to read, sorted by name; paths are relative to the folder. Raises ConfigError when nothing is."""
        raise NotImplementedError

    def read(self, file: File, seed: int) -> Iterator[pa.RecordBatch | Rejected]:
        """The rows of one file as batches of ROWS, and those that could not be read; little is held at a time."""
        raise NotImplementedError


def below_folder(path: str) -> str:
    """The path, if it is a URL of a store or stays below ingest.folder. Raises ValueError for any other: DVC watches that
    folder alone, so what lies elsewhere could change unseen; and params of somebody else could name any file of ours."""
    if any(ord(letter) < 32 for letter in path):
        raise ValueError("holds a control character, which no path here has")
    if "://" in path:
        if path.partition("://")[0].lower() in ("file", "local") or "::" in path:
            raise ValueError(
                "reads files of this machine past ingest.folder: name their folder there, and a path below it"
            )
        parts = urlsplit(path)
        if "@" in parts.netloc or any(SECRETS.fullmatch(name) for name, _ in parse_qsl(parts.query)):
            raise ValueError("holds credentials, which would be kept with every run: they come from the environment")
    elif Path(path).is_absolute() or ".." in Path(path).parts:
        raise ValueError("leads out of ingest.folder: name its folder there, as in ingest.folder=/data/text")
    return path


class Columns(Source):
    """Source with named fields: which of a row are text, id and meta."""

    text_field: str = "text"
    id_field: str = "id"
    meta_fields: list[str] | None = Field(None, description="fields kept in meta; null: all but text and id")

    def meta_names(self, names: Iterable[str]) -> list[str]:
        """Names, out of these, of the fields that go into meta."""
        text, own, wanted = self.text_field, self.id_field, self.meta_fields
        return [name for name in names if (name not in (text, own) if wanted is None else name in wanted)]


def which_field(wanted: str, names: Iterable[str], texts: Iterable[str]) -> str:
    """What is said where no field is called as text_field says: which there are, and the one that is probably meant.

    texts: those of the names that hold strings.
    """
    names, texts = list(names), list(texts)
    same = [name for name in names if name.strip().casefold() == wanted.strip().casefold()]
    near = [*same, *get_close_matches(wanted, texts, 1, 0.75), *(n for n in texts if n.strip().lower() in USUAL_NAMES)]
    others = [name for name in texts if name.strip().lower() not in ("id", "url", "source", "meta")]
    meant = near[0] if near else others[0] if len(others) == 1 else None
    listed = ", ".join(map(repr, names[:SHOWN])) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    said = excerpt_of(f"has the fields {listed or 'none'}")
    if meant is None:
        return said
    return f"{said}; did you mean text_field: {meant if meant == meant.strip() else repr(meant)}?"


def excerpt_of(value: object) -> str:
    """The first 200 characters of anything, printable."""
    text = value[: 4 * EXCERPT].decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:EXCERPT])
