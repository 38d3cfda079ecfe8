"""What a curriculum is made of: documents, a budget, and the ranges of tokens that fill each sequence of each step.

An order says which documents come when, a prefix what stands before a document, a method how both become sequences.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np

from tasks.core.config import ConfigError

# What Ranges.document holds where a range is of no document: padding, and FIRST_PREFIX - i for prefix i.
PADDING, FIRST_PREFIX = -1, -2


@dataclass(frozen=True)
class Documents:
    """The documents to train on: their row in documents.parquet, and how many tokens they have.

    source: of each an index into `sources`. scores: by name, a number for each; `length` and `bytes_per_token` are always
    there, others where documents.parquet has columns score_<name>.
    """

    row: np.ndarray
    length: np.ndarray
    source: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    sources: tuple[str, ...] = ()
    scores: dict[str, np.ndarray] = field(default_factory=dict)

    def score(self, name: str, key: str) -> np.ndarray:
        """The scores of this name. Raises ConfigError that blames the key when there are none, or a document has none."""
        if name not in self.scores:
            raise ConfigError(
                f"{key}: the documents have no score {name!r} (they have: {', '.join(sorted(self.scores))})"
            )
        found = self.scores[name]
        missing = int(np.isnan(found).sum())
        if missing:
            raise ConfigError(f"{key}: {missing} of {len(found)} documents have no score {name!r}; score or drop them")
        return found


@dataclass(frozen=True)
class Budget:
    """Predictions in all, and predictions a step."""

    tokens: int
    tokens_per_step: int

    @property
    def steps(self) -> int:
        return self.tokens // self.tokens_per_step

    def sequences_a_step(self, length: int, key: str) -> int:
        """Sequences of so many predictions that a step holds. Raises ConfigError that blames the key when it is none."""
        if self.tokens_per_step < length:
            raise ConfigError(
                f"curriculum.tokens_per_step: {self.tokens_per_step} is less than one sequence of {key} {length}"
            )
        return self.tokens_per_step // length


@dataclass(frozen=True)
class Ranges:
    """The plan as columns, in the order of (step, sequence, position): each range is part of one document, of a prefix, or
    padding, and `document` says which: a row of documents.parquet, FIRST_PREFIX - i, or PADDING.

    A sequence of n + 1 tokens gives n predictions; all sequences of a step have the same number. offset: where the range begins
    in its document, for prefixes in the tokens of all prefixes end to end, for padding 0.
    """

    step: np.ndarray
    sequence: np.ndarray
    document: np.ndarray
    offset: np.ndarray
    length: np.ndarray


@dataclass(frozen=True)
class DocumentOrder:
    """Documents in the order of training, by index, as often as they come; what has the same window (a number that never
    falls) may change places. window None: nothing may."""

    document: np.ndarray
    window: np.ndarray | None


@dataclass(frozen=True)
class Prefixes:
    """What stands before documents: distinct texts, for each document an index into them or -1, and up to which share of the
    run's tokens they are used."""

    texts: list[str]
    of_document: np.ndarray
    share: float = 1.0


class Order(Protocol):
    """`(documents, tokens, seed) -> drawn`: documents of at least so many tokens, and no document more than that takes."""

    def __call__(self, documents: Documents, tokens: int, seed: int) -> DocumentOrder: ...


class Prefix(Protocol):
    """`(documents, seed) -> prefixes`; None where no document has one."""

    def __call__(self, documents: Documents, seed: int) -> Prefixes | None: ...


@dataclass(frozen=True)
class Stream:
    """Drawn documents as ranges of tokens, end to end: columns as in Ranges, and windows as in Drawn. A prefix is a range of
    its own before that of its document."""

    document: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    window: np.ndarray | None


Draw = Callable[[int], Stream]


class Method(Protocol):
    """`(documents, draw, budget, seed) -> plan`; the same plan for the same arguments, whatever the machine.

    draw(tokens) gives a stream of at least so many. takes_orders: whether the method follows it; one that does not has an
    order of its own.
    """

    takes_orders: ClassVar[bool]

    def __call__(self, documents: Documents, draw: Draw, budget: Budget, seed: int) -> Ranges: ...


def shuffled(count: int, seed: int, round_: int) -> np.ndarray:
    """The order of one round through `count` things: another for each seed and round, from a counter-based generator."""
    return np.random.Generator(np.random.Philox(key=[seed, round_])).permutation(count)
