"""What a curriculum method gets and gives: documents, a budget, and the ranges of tokens that fill each sequence."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Documents:
    """The documents to train on: their row in documents.parquet, where their tokens start, and how many there are."""

    row: np.ndarray
    start: np.ndarray
    length: np.ndarray


@dataclass(frozen=True)
class Budget:
    """Predictions in all, and predictions a step."""

    tokens: int
    tokens_per_step: int

    @property
    def steps(self) -> int:
        return self.tokens // self.tokens_per_step


@dataclass(frozen=True)
class Ranges:
    """The plan as columns, in the order of (step, sequence, position): each range is part of one document.

    A sequence of n + 1 tokens gives n predictions; all sequences of a step have the same number.
    """

    step: np.ndarray
    sequence: np.ndarray
    document: np.ndarray
    start: np.ndarray
    length: np.ndarray


class Method(Protocol):
    """`(documents, budget, seed) -> plan`; the same plan for the same arguments, whatever the machine."""

    def __call__(self, documents: Documents, budget: Budget, seed: int) -> Ranges: ...


def shuffled(count: int, seed: int, round_: int) -> np.ndarray:
    """The order of one round through `count` things: another for each seed and round, from a counter-based generator."""
    return np.random.Generator(np.random.Philox(key=[seed, round_])).permutation(count)
