"""Pairs from files of preferences, read as files of conversations are: JSON lines and arrays, Parquet, Arrow."""

import json
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from pydantic import Field

from lm.config import ConfigError
from lm.conversations.dialogue import Dialogue, InvalidRow
from lm.conversations.files import ENDINGS, rows_of, say_unread
from lm.pairs.base import EXCERPT, Pair, SkippedRow, Source, SourceInputs
from lm.pairs.rows import NoPair, dialogues_of, pair_of


class Files(Source):
    """Pairs of the files whose names fit, in the order of names and rows; other columns are passed over."""

    name: Literal["files"] = "files"
    path: str = Field(
        "*", description=f"pattern of paths in the section's `folder`; read are those that end in {', '.join(ENDINGS)}"
    )

    def __call__(self, given: SourceInputs) -> Iterator[Pair | SkippedRow]:
        there = given.files()
        say_unread(given.folder, (path for path in there if self._fits(path, given.folder)))
        for path in self.listed(given.slot, given.folder, there):
            for found in dialogues_in(path, given.folder):
                if isinstance(found, SkippedRow):
                    yield found
                    continue
                chosen, rejected = found
                try:
                    yield pair_of(chosen, rejected, given.tokenizer)
                except NoPair as error:
                    yield SkippedRow(chosen.where, error.reason, f"{error}: {json.dumps(chosen.messages)}"[:EXCERPT])

    def listed(self, slot: str, folder: Path, watched: Sequence[Path]) -> list[Path]:
        """The files, of those of the folder that DVC watches. Raises ConfigError, which names the section of the slot, where
        there is none."""
        found = [path for path in watched if path.name.endswith(ENDINGS) and self._fits(path, folder)]
        if not found:
            raise ConfigError(
                f"{slot.partition('.')[0]}.folder: {folder}: holds no file that fits {self.path!r} and ends in "
                f"{', '.join(ENDINGS)}; put files of pairs there"
            )
        return found

    def _fits(self, path: Path, folder: Path) -> bool:
        return fnmatchcase(path.relative_to(folder).as_posix(), self.path)


def dialogues_in(path: Path, folder: Path) -> Iterator[tuple[Dialogue, Dialogue] | SkippedRow]:
    """The two conversations of each row of a file, which are known by `file:row`, the file as seen from the folder; and what
    cannot be read, a file that is broken from there on as one."""
    name = path.relative_to(folder).as_posix()
    try:
        for place, row in rows_of(path):
            where = f"{name}{place.removeprefix(str(path))}"
            if isinstance(row, InvalidRow):
                yield SkippedRow(where, "no_object", f"{row.reason}: {row.excerpt}"[:EXCERPT])
                continue
            try:
                yield dialogues_of(row, where)
            except NoPair as error:
                excerpt = f"{error}: {json.dumps(row, ensure_ascii=False, default=repr)}"
                yield SkippedRow(where, error.reason, excerpt[:EXCERPT])
    except ConfigError as error:
        said = str(error).removeprefix(str(path))
        yield SkippedRow(name, "unreadable", f"{name}{said}"[:EXCERPT])
