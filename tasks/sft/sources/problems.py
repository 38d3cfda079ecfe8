"""The demonstrations of the problem set, of its split for fine-tuning."""

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lm.config import Config, choice
from lm.conversations.dialogue import Dialogue
from lm.conversations.encode import Learned
from lm.model import Decoder
from lm.problems.answers import MARK
from lm.problems.example import Example, unit_hash
from lm.tokenizer import Tokenizer
from lm.training.data.conversations import demonstration_conversation
from tasks.sft import formats
from tasks.sft.sources.base import SourceData, read_rows


def divided(problems: Any, example: Example) -> tuple[str, str | None]:
    """(the answer by itself, what the demonstration says before it): behind the mark of final answers, else behind the last
    colon, else on the last line, wherever the verifier accepts it. (demonstration, None) where it says nothing before it."""
    text = example.demonstration
    for at, behind in ((text.rfind(MARK), 0), (text.rfind(": "), 2), (text.rfind("\n"), 1)):
        if at <= 0 or not text[:at].strip():
            continue
        score = problems.score(example, text[at + behind :])
        if score.valid and score.value >= 1:
            return text[at + behind :], text[:at].rstrip()
    return text, None


class Problems(Config):
    """`fraction` takes the problems whose id hashes below it, so a smaller fraction is part of a larger one (as in the study of
    how little data suffices by Gupta et al. 2023, "Instruction Tuned Models are Quick Learners", arXiv:2306.05539)."""

    name: Literal["problems"] = "problems"
    weight: float = Field(1.0, gt=0, description="of the conversations in a step, beside the other sources' weights")
    fraction: float = Field(1.0, gt=0, le=1, description="of the problems that are used")
    format: choice(formats) = formats.Plain()

    def __call__(
        self, tokenizer: Tokenizer, problems: Any, folder: Path, learned: Learned, model: Decoder | None, seed: int
    ) -> SourceData:
        if not isinstance(self.format, formats.Plain):
            return read_rows(self.rows(problems), self.format, tokenizer, learned, seed)
        found = [demonstration_conversation(tokenizer, example) for example in self._examples(problems)]
        return SourceData(found, [math.nan] * len(found))

    def rows(self, problems: Any) -> list[Dialogue]:
        """The problems as dialogues, for a format to write: `level` is a marker."""
        return [self._dialogue(problems, example) for example in self._examples(problems)]

    def _examples(self, problems: Any) -> list[Example]:
        return [
            e for e in problems.examples("sft") if self.fraction == 1 or unit_hash(f"fraction:{e.id}") < self.fraction
        ]

    def _dialogue(self, problems: Any, example: Example) -> Dialogue:
        answer, rationale = divided(problems, example)
        said = answer if self.format.divides else example.demonstration
        messages = [{"role": "user", "content": example.prompt}, {"role": "assistant", "content": said}]
        markers = {"level": example.level} if example.level else {}
        return Dialogue(example.id, messages, [0.0, 1.0], rationale=rationale, markers=markers)
