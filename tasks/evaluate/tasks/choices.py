"""Questions with choices from a file, answered by likelihood with or without examples before them."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from lm.config import ConfigError
from lm.model import ModelConfig
from lm.problems.files import rows_of
from lm.problems.folder import id_of
from lm.problems.multiple_choice import NEEDS, Question, question_of
from lm.tokenizer import Tokenizer
from tasks.core.config import check_watched
from tasks.evaluate.likelihood import LikelihoodRequest
from tasks.evaluate.tasks.base import FOLDER, Item, Task, label_of, pair

# The beginning that questions share ends some tokens before the last example does, where tokens join the two.
JOINED = 4


class Choices(Task):
    """JSON lines of `question`, `choices` and `answer`, the place, the letter or the text of the right one. A choice is what
    may follow the question in the template, behind a blank; `shots` examples from <file>.shots.jsonl, the first ones, stand
    before it with their answers. Likelihoods and both accuracies are those of lm-evaluation-harness's `multiple_choice`, whose
    task `python -m tasks.evaluate.harness` writes."""

    name: Literal["choices"] = "choices"
    file: str = Field(description=f"JSON lines in {FOLDER}")
    shots: int = Field(0, ge=0, description="examples before each question")
    template: str = Field("Question: {question}\nAnswer:", description="what a question is written in")

    @field_validator("file")
    @classmethod
    def _watched(cls, file: str) -> str:
        check_watched("evaluate.tasks", [file], [FOLDER])
        return file

    @field_validator("template")
    @classmethod
    def _has_a_place(cls, template: str) -> str:
        if template.count("{question}") != 1:
            raise ValueError("template must have {question} once")
        return template

    @property
    def label(self) -> str:
        return label_of(Path(self.file).name.split(".")[0])

    @property
    def shots_file(self) -> Path:
        """Where the examples are."""
        path = Path(self.file)
        return path.with_name(f"{path.name.split('.')[0]}.shots.jsonl")

    def render_question(self, question: Question) -> str:
        """The question as a model reads it, up to its answer."""
        return self.template.replace("{question}", question.text)

    def beginning(self) -> str:
        """The examples, each with its answer and a blank line behind it."""
        if not self.shots:
            return ""
        if len(found := read(self.shots_file, self.shots)) < self.shots:
            raise ConfigError(f"{self.shots_file}: has {len(found)} examples, evaluate.tasks asks for {self.shots}")
        return "".join(f"{self.render_question(each)} {each.choices[each.right]}\n\n" for _, each in found)

    def items(self, tokenizer: Tokenizer, shape: ModelConfig, data: Path) -> list[Item]:
        beginning = self.beginning()
        first = [*tokenizer.before, *tokenizer.encode(beginning)] if beginning else []
        items = []
        for name, question in read(Path(self.file)):
            text = beginning + self.render_question(question)
            pairs = [pair(tokenizer, text, f" {choice}") for choice in question.choices]
            ids = pairs[0][0]
            asked = LikelihoodRequest(ids, [following for _, following in pairs], shared_by(ids, first))
            items.append(Item(name, asked, question.right, [len(choice) for choice in question.choices]))
        if not items:
            raise ConfigError(f"{self.file}: has no question")
        return items


def read(path: Path, most: int | None = None) -> list[tuple[str, Question]]:
    """(id, question) of the lines of a file, of the first ones where so many are enough. Raises ConfigError naming file and
    line."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file: put {NEEDS} a line there")
    found: list[tuple[str, Question]] = []
    for where, row in rows_of(path, NEEDS):
        if most is not None and len(found) == most:
            break
        found.append((id_of(row, where), question_of(where, row)))
    return found


def shared_by(ids: list[int], beginning: list[int]) -> int:
    """Number of tokens that a text has in common with the beginning which it was made with: all of them, or some less where
    tokens join the two; 0 where it is not so."""
    ends = range(len(beginning), max(len(beginning) - JOINED, 0), -1)
    return next((end for end in ends if end < len(ids) and ids[:end] == beginning[:end]), 0)
