"""How much of the expected text an answer begins with: a reward of words, for what comes next in a text (the problem set
`segments`, after Li et al. 2025, arXiv:2509.19249)."""

from itertools import takewhile
from typing import Literal

from lm.problems.answers import MARK
from tasks.rl.rewards.base import Answer, Part, RewardContext


def shared_beginning(said: str, expected: str) -> float:
    """The share of the words of `expected` that `said` begins with, in order and unchanged; 0 of none."""
    words = expected.split()
    same = takewhile(lambda pair: pair[0] == pair[1], zip(said.split(), words, strict=False))
    return sum(1 for _ in same) / max(len(words), 1)


class Agreement(Part):
    """What an answer says stands behind its last `####`, or is all of it where there is none. What follows an agreement, and
    what is right after a word that is not, counts for nothing.

    Differs from the paper: its reward is 1 where a generative model holds what was said to mean the same as a beginning of
    the true segment, and else 0; this one sees words, not what they mean."""

    name: Literal["agreement"] = "agreement"

    def __call__(self, answers: list[Answer], context: RewardContext) -> list[float]:
        return [shared_beginning(answer.text.rpartition(MARK)[2], answer.example.answer) for answer in answers]
