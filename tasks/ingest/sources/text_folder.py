"""A folder of text files: one document a file."""

import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from pydantic import Field

from lm.config import Config
from tasks.core.config import ConfigError
from tasks.ingest.sources.records import Record, Rejected, check_text, excerpt_of, open_decompressed


def read_text(path: Path, name: str, max_file_bytes: int) -> Record | Rejected:
    """The document of one file."""
    try:
        with open_decompressed(path) as file:
            content = file.read(max_file_bytes + 1)
    except (OSError, EOFError) as error:
        return Rejected(name, 0, "unreadable", excerpt_of(f"{type(error).__name__}: {error}"))
    if len(content) > max_file_bytes:
        return Rejected(name, 0, "file_too_long", excerpt_of(content))
    if not content:
        return Rejected(name, 0, "empty_file")
    try:
        return check_text(name, 0, content.removeprefix(b"\xef\xbb\xbf").decode())
    except UnicodeDecodeError:
        return Rejected(name, 0, "invalid_utf8", excerpt_of(content))


class TextFolder(Config):
    """Every file below ingest.folder/path whose name matches `pattern`, in the order of their paths."""

    name: Literal["text_folder"] = "text_folder"
    label: str | None = Field(None, description="the documents' source; the method's name when absent")
    weight: float = Field(1.0, gt=0, description="share of ingest.max_bytes, relative to the other sources")
    path: str = Field(".", description="folder relative to ingest.folder")
    pattern: str = "*.txt"
    max_file_bytes: int = Field(16 << 20, gt=0)

    def __call__(self, folder: Path, max_bytes: int, seed: int) -> Iterator[Record | Rejected]:
        """Raises ConfigError when the folder itself is missing or may not be read; one below it is quarantined."""
        top = folder / self.path
        if not top.is_dir() or not os.access(top, os.R_OK | os.X_OK):
            raise ConfigError(f"ingest.sources: {self.label or self.name}: {top}: no folder that can be read")
        denied: list[OSError] = []
        for root, folders, files in os.walk(top, onerror=denied.append):
            folders.sort()
            for file in sorted(files):
                if fnmatch(file, self.pattern):
                    path = Path(root) / file
                    yield read_text(path, path.relative_to(folder).as_posix(), self.max_file_bytes)
        for error in denied:
            name = Path(error.filename).relative_to(folder).as_posix()
            yield Rejected(name, 0, "unreadable", excerpt_of(f"{type(error).__name__}: {error.strerror}"))
