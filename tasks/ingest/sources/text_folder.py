"""A folder of text files: one document a file."""

import os
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

import pyarrow as pa
from pydantic import Field

from lm.inputs.encodings import BOM
from lm.inputs.hashed import check_no_link, read_ignored, scan_dependency
from tasks.core.config import ConfigError
from tasks.ingest.sources.base import File, Record, Rejected, excerpt_of
from tasks.ingest.sources.file_source import TextSource
from tasks.ingest.sources.files import is_url, local_file, none_of, open_text, quarantined, remote_files, top_of
from tasks.ingest.sources.rows import to_batches

MARKS = re.compile(rb"(?m)^(?:\xef\xbb\xbf)+")


class TextFolder(TextSource):
    """Every file below `path` whose name matches `pattern`, or whose path below it does where `pattern` has a slash."""

    name: Literal["text_folder"] = "text_folder"
    path: str = Field(".", description="folder relative to ingest.folder, or a URL")
    pattern: str = "*.txt"

    def files(self, folder: str) -> list[File]:
        """Raises ConfigError when the folder, or one below it, is missing or may not be read, and when no file matches."""
        if is_url(self.path):
            found = remote_files(f"{self.path.rstrip('/')}/**", self.called)
            above = top_of(self.path)
            named = [file for file in found if self._fits(file.name.removeprefix(above))]
            if not named:
                raise none_of(self.pattern, self.called, self.path, (Path(file.name) for file in found))
            return sorted(named, key=lambda file: file.name)
        top, base = Path(folder) / self.path, Path(folder)
        if not top.is_dir() or not os.access(top, os.R_OK | os.X_OK):
            raise ConfigError(f"ingest.sources: {self.called}: {top}: no folder that can be read")
        check_no_link(top, base)
        there = scan_dependency(top, read_ignored()).files
        texts = [path for path in there if self._fits(path.relative_to(top).as_posix())]
        if not texts:
            raise none_of(self.pattern, self.called, str(top), there)
        return sorted((local_file(path, base) for path in texts), key=lambda file: file.name)

    def _fits(self, name: str) -> bool:
        if "/" not in self.pattern:
            return fnmatch(name.rpartition("/")[2], self.pattern)
        return fnmatch(name, self.pattern) or fnmatch(name, self.pattern.replace("**/", ""))  # `**` may be no folder

    def read(self, file: File, seed: int) -> Iterator[pa.RecordBatch | Rejected]:
        yield from to_batches(self._rows(file))

    def _rows(self, file: File) -> Iterator[Record | Rejected]:
        wrong: list[Rejected] = []
        content = b""
        with quarantined(file, wrong), open_text(file, self.max_expansion, self.encoding) as opened:
            content = opened.read(self.max_document_bytes + 1)
        if wrong:
            yield from wrong
        elif len(content) > self.max_document_bytes:
            yield Rejected(0, "document_too_long", excerpt_of(content))
        elif not content:
            yield Rejected(0, "empty_file")
        else:
            try:
                yield Record(0, without_marks(content).decode())
            except UnicodeDecodeError:
                yield Rejected(0, "invalid_utf8", excerpt_of(content))


def without_marks(content: bytes) -> bytes:
    """The text without byte order marks where its lines begin, as files have that were put together of others."""
    return MARKS.sub(b"", content) if BOM in content else content
