"""What problem sets that are made up share: problems drawn by a seed, each once, and divided by a hash of what they ask."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from lm.config import Config
from lm.problems.example import Example, split_of, unit_hash

SHARES = {"sft": 0.45, "rl": 0.45, "test": 0.1}


class Draws:
    """Random numbers of one problem."""

    def __init__(self, seed: int, number: int) -> None:
        self._generator = np.random.Generator(np.random.Philox(key=[seed, number]))

    def between(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return int(self._generator.integers(low, high + 1))

    def one_of(self, things: Sequence[str]) -> str:
        return things[self.between(0, len(things) - 1)]

    def some_of(self, things: Sequence[str], count: int) -> list[str]:
        """Different ones, in a random order."""
        return [things[place] for place in self._generator.permutation(len(things))[:count]]


class Drawn(NamedTuple):
    """A problem. key: what it asks, in one form for all ways of asking the same. working: what a demonstration shows that is
    not terse."""

    prompt: str
    answer: str
    working: str
    level: str
    key: str


class Generated(Config):
    """Set of problems that are made up. One of a key falls into one split whatever the seed, so that no seed's training has
    another seed's test. A demonstration shows its working in `worked_fraction` of the cases."""

    folder: str = Field("data/problems", description="unused here: the problems are generated")
    drawn: int = Field(4000, gt=0, description="problems that are drawn; one that was drawn before is left out")
    seed: int = Field(0, ge=0, description="of the draws")
    worked_fraction: float = Field(0.5, ge=0, le=1)

    def draw(self, draws: Draws) -> Drawn:
        """One problem."""
        raise NotImplementedError

    def examples(self, split: Literal["sft", "rl", "test"]) -> list[Example]:
        """Every problem of the split, in the order in which they were drawn. Of one key the first counts."""
        found: dict[str, Drawn] = {}
        for number in range(self.drawn):
            drawn = self.draw(Draws(self.seed, number))
            found.setdefault(drawn.key, drawn)
        return [self._example(drawn) for key, drawn in found.items() if split_of(key, SHARES) == split]

    def _example(self, drawn: Drawn) -> Example:
        worked = unit_hash(f"style:{drawn.prompt}") < self.worked_fraction
        shown = drawn.working if worked else self.terse(drawn.answer)
        return Example(drawn.prompt, drawn.prompt, drawn.answer, shown, drawn.level)

    def terse(self, answer: str) -> str:
        """A demonstration without working."""
        return answer
