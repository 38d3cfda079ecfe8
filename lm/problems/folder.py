"""Problem sets read from a folder of JSON lines, divided among sft, rl and test."""

import sys
import unicodedata
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from lm.config import Config, ConfigError
from lm.inputs.hashed import hashed_files
from lm.inputs.text import LINES
from lm.problems.example import Example, split_of
from lm.problems.files import rows_of

SHARES = {"sft": 0.5, "rl": 0.4, "test": 0.1}


def normalised(question: str) -> str:
    """What tells two questions apart: their text without case and white space at will, and in Unicode's form KC."""
    return " ".join(unicodedata.normalize("NFKC", question).casefold().split())


def text_of(row: dict[str, Any], name: str, where: str, needs: str) -> str:
    """A text of a row. Raises ConfigError, in which `needs` says what a row is to be, where it is none, or blank."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where}: needs {needs}: `{name}` is {'blank' if isinstance(value, str) else repr(value)}")
    return value


def level_of(row: dict[str, Any], where: str) -> str | None:
    """The row's own level, where it has one. Raises ConfigError for one that is neither string nor number."""
    level = row.get("level")
    if level is not None and not isinstance(level, str | int | float):
        raise ConfigError(f"{where}: `level` must be a string or a number, not {level!r}")
    return None if level is None else str(level)


def id_of(row: dict[str, Any], where: str) -> str:
    """The row's own id, else file and line."""
    own = row.get("id")
    return str(own) if isinstance(own, str | int) and str(own) else where.rpartition("/")[2]


class Folder(Config):
    """The files of JSON lines that stand in a folder, compressed or not, divided among sft, rl and test by a hash of the
    questions' normalised text.

    With `test`, the files of that pattern are the test split as they are, so that a score is comparable with published ones;
    the others are divided between sft and rl, without the questions that the test has. needs: what a line must be, in words.
    """

    needs: ClassVar[str] = "a JSON object"
    folder: str = Field("data/problems", description="where the problem files are")
    test: str | None = Field(
        None, description="pattern of the names of files that are the test split, such as test*.jsonl"
    )

    def example(self, where: str, row: dict[str, Any]) -> Example:
        """The problem of a line. Raises ConfigError naming file, line and what is wrong."""
        raise NotImplementedError

    def key(self, example: Example) -> str:
        """What tells the problem from others, normalised: problems of one key are in one split."""
        return normalised(example.prompt)

    def examples(self, split: Literal["sft", "rl", "test"]) -> list[Example]:
        """Every problem of the split, in file order. Raises ConfigError when the folder holds no problem file."""
        kept, others = self._files()
        tested = [example for path in kept for example in self._read(path)]
        if kept and split == "test":
            return tested
        shares = {name: share for name, share in SHARES.items() if not (kept and name == "test")}
        known = {self.key(example) for example in tested}
        found = [(example, self.key(example)) for path in others for example in self._read(path)]
        if again := sum(key in known for _, key in found):
            print(
                f"problems: {again} questions are also in the files of problems.test, and left out of {split}",
                file=sys.stderr,
            )
        return [example for example, key in found if key not in known and split_of(key, shares) == split]

    def _read(self, path: Path) -> list[Example]:
        return [self.example(where, row) for where, row in rows_of(path, self.needs)]

    def _files(self) -> tuple[list[Path], list[Path]]:
        """The files that are the test split, and the others."""
        top = Path(self.folder)
        paths = [path for path in hashed_files(top) if path.parent == top and path.name.endswith(LINES)]
        if not paths:
            endings = ", ".join(f"*{ending}" for ending in LINES)
            raise ConfigError(f"problems.folder: {self.folder}: holds no {endings}; put problem files there")
        kept = [path for path in paths if self.test is not None and fnmatchcase(path.name, self.test)]
        if self.test is not None and len(kept) in (0, len(paths)):
            names = ", ".join(path.name for path in paths[:5])
            raise ConfigError(f"problems.test: {self.test!r} fits {'all' if kept else 'none'} of the files: {names}")
        return kept, [path for path in paths if path not in kept]
