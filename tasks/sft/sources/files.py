"""Files of conversations in conversations.folder, in the layouts of lm/conversations/layouts.py."""

from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field, field_validator

from lm.config import Config, choice
from lm.conversations.dialogue import Dialogue, InvalidRow
from lm.conversations.encode import Learned
from lm.conversations.files import dialogues_of, files_of, say_unread
from lm.model import Decoder
from lm.problems.example import unit_hash
from lm.tokenizer import Tokenizer
from tasks.sft import formats
from tasks.sft.sources.base import SourceData, read_rows


class Files(Config):
    """`fraction` takes the rows whose place in their file hashes below it, so a smaller fraction is part of a larger one."""

    name: Literal["files"] = "files"
    path: str = Field(".", description="a file or folder in conversations.folder")
    weight: float = Field(1.0, gt=0, description="of the conversations in a step, beside the other sources' weights")
    fraction: float = Field(1.0, gt=0, le=1, description="of the rows that are used")
    format: choice(formats) = formats.Plain()

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise ValueError("must lie in conversations.folder, which DVC watches")
        return path

    def __call__(
        self, tokenizer: Tokenizer, problems: Any, folder: Path, learned: Learned, model: Decoder | None, seed: int
    ) -> SourceData:
        return read_rows(self.rows(folder), self.format, tokenizer, learned, seed)

    def rows(self, folder: Path) -> "list[Dialogue | InvalidRow]":
        """Rows of all files, in the order of their names. Raises ConfigError where there is no file, or one cannot be read."""
        place = folder / self.path
        paths = files_of(place, folder)
        if place.is_dir():
            say_unread(place)
        return [
            row
            for path in paths
            for row in dialogues_of(path)
            if self.fraction == 1 or unit_hash(f"fraction:{Path(row.where).name}") < self.fraction
        ]
