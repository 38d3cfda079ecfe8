"""What a teacher said once and for all: targets that were stored, as of Reinforced training (MobileCLIP, Vasu et al. 2024,
arXiv:2311.17049)."""

from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lm.config import ConfigError
from lm.distilling import targets
from lm.distilling.targets import Row, digest_of
from lm.model import Decoder
from lm.tokenizer import Tokenizer
from lm.training.data.conversations import Conversation
from tasks.distill.answers import Demonstrations, Student, Teacher
from tasks.distill.teachers.base import FixedTeachers, Teachers, TeacherState

FOLDER = "lessons"  # of data/


class FromDisk(FixedTeachers):
    """No model teaches."""

    def __init__(self, found: targets.StoredTargets) -> None:
        super().__init__([])
        self._found = found

    def stored(self, step: int) -> list[Row]:
        return self._found.at(step)

    def digest(self) -> str:
        return self._found.digest()


class Targets:
    """top_TK and logp_TC of sequences laid end to end, in host memory."""

    def __init__(self, rows: list[Row], count: int) -> None:
        """count: K, for where there are no rows."""
        self.top_TK = torch.cat([torch.zeros(0, count, dtype=torch.int64), *(row.top_TK for row in rows)])
        self.logp_TC = torch.cat([torch.zeros(0, count + 1), *(row.logp_TC for row in rows)])
        self._ends = [0, *accumulate(len(row.top_TK) for row in rows)]

    def of(self, rows: slice) -> tuple[Tensor, Tensor]:
        """top and logp of some of the sequences."""
        last = len(self._ends) - 1
        part = slice(self._ends[min(rows.start, last)], self._ends[min(rows.stop, last)])
        return self.top_TK[part], self.logp_TC[part]


class Stored(Teachers):
    """The targets in data/lessons, which the stage `lessons` writes; no teacher reads a token, and answers are those that were
    written then. Differs from the paper: an answer has one set of targets, where it stores several of augmented images."""

    name: Literal["stored"] = "stored"

    def open(self, start: Decoder, tokenizer: Tokenizer, data: Path = Path("data"), asked: Any = None) -> TeacherState:
        found = targets.StoredTargets(data / FOLDER)
        if isinstance(asked.answers, Student):
            raise ConfigError(
                "distill.answers: what the student writes has no stored targets: take teacher, or demonstrations"
            )
        if not asked.divergence.top_k:
            raise ConfigError(
                f"distill.divergence.top_k: 0 tells all tokens apart, and {found.path} has {found.header.top_k}: set it to "
                "that at the most"
            )
        by_teacher = isinstance(asked.answers, Teacher)
        found.check(
            steps=asked.steps,
            batch=asked.batch,
            texts=asked.corpus_sequences,
            max_new_tokens=asked.max_new_tokens,
            top_k=asked.divergence.top_k,
            temperature=asked.divergence.temperature,
            answers="teacher" if by_teacher else Demonstrations().name,
            answer_temperature=asked.answers.temperature if by_teacher else 0.0,
            vocabulary=start.config.vocab_size,
            tokenizer=digest_of(tokenizer.to_json()),
        )
        return FromDisk(found)


def answers_of(step: int, rows: list[Row], asked: list[Conversation]) -> list[list[int]]:
    """The answers in the rows of a step, whose prompts must be those that are asked. Raises ConfigError for another."""
    for place, (row, each) in enumerate(zip(rows, asked, strict=False)):
        if row.ids[: row.first] != each.prompt:
            raise ConfigError(
                f"data/{FOLDER}: problem {place} of step {step} is not the one that is asked: make the targets anew with the "
                "seed and the problems that are asked now"
            )
    return [row.ids[row.first :] for row in rows[: len(asked)]]


def check_text(step: int, rows: list[Row], text_BN: Tensor) -> None:
    """Raise ConfigError where the rows of text are not these sequences."""
    if [row.ids for row in rows] != text_BN.tolist():
        raise ConfigError(
            f"data/{FOLDER}: the text of step {step} is not the plan's: make the targets anew for this curriculum"
        )
