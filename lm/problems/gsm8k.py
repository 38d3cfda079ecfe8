"""Grade-school word problems in the layout of GSM8K (arXiv:2110.14168): JSON lines of `question` and `answer`."""

import gzip
import json
import re
from pathlib import Path
from typing import Literal

from pydantic import Field

from lm.config import Config
from lm.problems.example import Example, Score, split_of

SHARES = {"sft": 0.5, "rl": 0.4, "test": 0.1}


def final_number(text: str) -> str | None:
    """The number after the last '####', without thousands separators; None when there is none."""
    found = re.findall(r"####\s*(-?[\d,]*\.?\d+)", text, flags=re.ASCII)
    return found[-1].replace(",", "") if found else None


def read_examples(path: Path) -> list[Example]:
    """Every example of one file. Raises ValueError naming file, line and what is wrong."""
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
    examples = []
    with opened as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                question, answer = row["question"], row["answer"]
                final = final_number(answer)
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}:{number}: needs a JSON object with strings `question` and `answer`: {error!r}"
                ) from None
            if final is None:
                raise ValueError(f"{path}:{number}: the answer has no number after '####'")
            examples.append(Example(str(row.get("id", f"{path.name}:{number}")), question, final, answer))
    return examples


class Gsm8k(Config):
    """All *.jsonl and *.jsonl.gz of a folder; the questions are divided among sft, rl and test by a hash of their text."""

    name: Literal["gsm8k"] = "gsm8k"
    folder: str = Field("data/problems", description="where the problem files are")

    def examples(self, split: Literal["sft", "rl", "test"]) -> list[Example]:
        """Every problem of the split, in file order. Raises ValueError when the folder holds no problem file."""
        paths = sorted([*Path(self.folder).glob("*.jsonl"), *Path(self.folder).glob("*.jsonl.gz")])
        if not paths:
            raise ValueError(
                f"problems.folder: {self.folder}: holds no *.jsonl or *.jsonl.gz file; put problem files there"
            )
        return [e for path in paths for e in read_examples(path) if split_of(e.prompt, SHARES) == split]

    def score(self, example: Example, text: str) -> Score:
        """1 when the number after the last '####' of the text equals the expected one; else 0."""
        final = final_number(text)
        try:
            return Score(float(final is not None and float(final) == float(example.answer)))
        except ValueError:
            return Score(0.0, valid=False)
