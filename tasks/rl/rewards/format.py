"""Whether an answer has a form: the part for sections or tags of composite rewards such as TimeMaster's (arXiv:2506.13705)."""

import re
from typing import Literal

from pydantic import Field, field_validator

from tasks.rl.rewards.base import Answer, Part, RewardContext


class Format(Part):
    """1 for an answer that matches the pattern from its first character to its last, else 0; `.` matches line ends, too.
    Several of them, each with a weight, tell graded forms."""

    name: Literal["format"] = "format"
    pattern: str = Field(description="a regular expression, such as <think>.*</think>\\s*<answer>.*</answer>\\s*")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from None
        return pattern

    def __call__(self, answers: list[Answer], context: RewardContext) -> list[float]:
        form = re.compile(self.pattern, re.DOTALL)
        return [float(form.fullmatch(answer.text) is not None) for answer in answers]
