"""What whoever writes the answers of a step is given."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from lm.config import Config

# (whether the student writes, prompts, temperature) -> the tokens of an answer to each, the end token included
Sample = Callable[[bool, list[list[int]], float], list[list[int]]]


@dataclass(frozen=True)
class AnswerRequest:
    """prompts and demonstrations of a step's problems, as token ids; a demonstration ends with the end token. coin: a number in
    [0, 1) that is drawn for the step."""

    prompts: list[list[int]]
    demonstrations: list[list[int]]
    coin: float
    sample: Sample


class Answers(Config):
    """by_student: whether the model that learns writes some of them."""

    by_student: ClassVar[bool] = False

    def fits(self, demonstration: list[int], longest: int) -> bool:
        """Whether a problem of this demonstration can be asked, where an answer has so many tokens at the most."""
        return True

    def __call__(self, asked: AnswerRequest) -> list[list[int]]:
        """The answers that both models are compared on, as token ids."""
        raise NotImplementedError
