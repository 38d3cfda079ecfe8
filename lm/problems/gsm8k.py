"""Grade-school word problems in the layout of GSM8K (arXiv:2110.14168): JSON lines of `question` and `answer`, with an `id` and
a `level` where they have them."""

import sys
import unicodedata
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from pydantic import Field

from lm.config import Config, ConfigError
from lm.problems.answers import equal, final_answer, read_value
from lm.problems.example import Example, Score, split_of
from lm.problems.files import rows_of

SHARES = {"sft": 0.5, "rl": 0.4, "test": 0.1}
NEEDS = "a JSON object with strings `question` and `answer`"


def read_examples(path: Path) -> list[Example]:
    """Every example of one file. Raises ConfigError naming file, line and what is wrong."""
    return [_example(where, row) for where, row in rows_of(path, NEEDS)]


def _example(where: str, row: dict) -> Example:
    question, answer, own, level = row.get("question"), row.get("answer"), row.get("id"), row.get("level")
    for name, value in (("question", question), ("answer", answer)):
        if not isinstance(value, str) or not value.strip():
            raise ConfigError(
                f"{where}: needs {NEEDS}: `{name}` is {'blank' if isinstance(value, str) else repr(value)}"
            )
    if level is not None and not isinstance(level, str | int | float):
        raise ConfigError(f"{where}: `level` must be a string or a number, not {level!r}")
    final = final_answer(str(answer))
    if final is None:
        raise ConfigError(f"{where}: the answer has no number after '####', and no \\boxed{{}}")
    value = read_value(final)
    if value is None:
        raise ConfigError(f"{where}: the answer's final {final!r} is not one number; write it as 18, 1/2, 0.5 or 50%")
    name = str(own) if isinstance(own, str | int) and str(own) else where.rpartition("/")[2]
    return Example(name, str(question), str(value), str(answer), None if level is None else str(level))


def normalised(question: str) -> str:
    """What tells two questions apart: their text without case and white space at will, and in Unicode's form KC."""
    return " ".join(unicodedata.normalize("NFKC", question).casefold().split())


class Gsm8k(Config):
    """All *.jsonl and *.jsonl.gz of a folder, divided among sft, rl and test by a hash of the questions' normalised text.

    With `test`, the files of that pattern are the test split as they are, so that a score is comparable with published ones;
    the others are divided between sft and rl, without the questions that the test has.
    """

    name: Literal["gsm8k"] = "gsm8k"
    folder: str = Field("data/problems", description="where the problem files are")
    test: str | None = Field(
        None, description="pattern of the names of files that are the test split, such as test*.jsonl"
    )

    def examples(self, split: Literal["sft", "rl", "test"]) -> list[Example]:
        """Every problem of the split, in file order. Raises ConfigError when the folder holds no problem file."""
        kept, others = self._files()
        tested = [example for path in kept for example in read_examples(path)]
        if kept and split == "test":
            return tested
        shares = {name: share for name, share in SHARES.items() if not (kept and name == "test")}
        known = {normalised(example.prompt) for example in tested}
        found = [(example, normalised(example.prompt)) for path in others for example in read_examples(path)]
        if again := sum(key in known for _, key in found):
            print(
                f"problems: {again} questions are also in the files of problems.test, and left out of {split}",
                file=sys.stderr,
            )
        return [example for example, key in found if key not in known and split_of(key, shares) == split]

    def _files(self) -> tuple[list[Path], list[Path]]:
        """The files that are the test split, and the others."""
        found = [*Path(self.folder).glob("*.jsonl"), *Path(self.folder).glob("*.jsonl.gz")]
        paths = sorted(path for path in found if path.is_file())
        if not paths:
            raise ConfigError(
                f"problems.folder: {self.folder}: holds no *.jsonl or *.jsonl.gz file; put problem files there"
            )
        kept = [path for path in paths if self.test is not None and fnmatchcase(path.name, self.test)]
        if self.test is not None and len(kept) in (0, len(paths)):
            names = ", ".join(path.name for path in paths[:5])
            raise ConfigError(f"problems.test: {self.test!r} fits {'all' if kept else 'none'} of the files: {names}")
        return kept, [path for path in paths if path not in kept]

    def score(self, example: Example, text: str) -> Score:
        """1 when the number that the text ends in, after '####' or in \\boxed{}, equals the expected one; else 0."""
        expected = read_value(example.answer)
        if expected is None:
            return Score(0.0, valid=False)
        final = final_answer(text)
        found = read_value(final) if final is not None else None
        return Score(float(found is not None and equal(found, expected)))
