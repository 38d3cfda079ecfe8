"""What sources of pairs are given and give."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lm.config import Config
from lm.model import Decoder
from lm.tokenizer import Tokenizer

EXCERPT = 200


@dataclass(frozen=True)
class Pair:
    """Two ways to go on from one prompt, of which `chosen` is the better: answers, whose ids end with the end token, or steps
    of one. where: file and row, or the problem's id. prompt: the question's text, by which pairs of one question are known."""

    where: str
    prompt: str
    prompt_ids: list[int]
    chosen: list[int]
    rejected: list[int]


@dataclass(frozen=True)
class SkippedRow:
    """A row or a problem of which no pair was made."""

    where: str
    reason: str
    excerpt: str = ""


@dataclass(frozen=True)
class SourceInputs:
    """What a source may read: files in `folder`, the problem set, and the model that the stage begins with, in evaluation mode.

    slot: the parameter that lists the sources, by which messages name it. files(): those of the folder that DVC watches.
    progress(done, total): to be called now and then by one that takes long.
    """

    slot: str
    folder: Path
    files: Callable[[], Sequence[Path]]
    problems: Any
    model: Decoder
    tokenizer: Tokenizer
    seed: int
    progress: Callable[[int, int], None] = lambda done, total: None

    def encode_answer(self, answer: str) -> list[int]:
        """Ids of an answer and the end token."""
        return [*self.tokenizer.encode(answer), self.tokenizer.end_id]


class Source(Config):
    """samples_model: whether its answers are sampled from the model; a split of problems and max_new_tokens are its fields
    then."""

    samples_model: ClassVar[bool] = False

    def __call__(self, given: SourceInputs) -> Iterator[Pair | SkippedRow]:
        """Every pair, in an order that is always the same."""
        raise NotImplementedError
