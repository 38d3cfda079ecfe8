"""What every curriculum shares: problems as they are asked, and the component that chooses them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from lm.config import Config
from lm.problems.example import Example
from lm.training.components import Component
from lm.training.data.conversations import sample_indices


@dataclass(frozen=True)
class DrawnProblem:
    """A problem of a rollout, by its place among the examples. hint: the share of its demonstration's tokens that the answer is
    given to begin with."""

    index: int
    hint: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What became of G problems, S answers of each: what the verifier gave, NaN where it failed, and the advantages of answers
    with a verdict, NaN of others."""

    scores_GS: Tensor
    advantages_GS: Tensor


class Chooser(Component):
    """Chooser of every problem once in each pass, in an order that is new in every pass, which learns nothing."""

    name = "curriculum"

    def __init__(self, examples: list[Example], seed: int) -> None:
        self.examples, self.seed = examples, seed

    def choose(self, number: int, draw: int, count: int) -> list[DrawnProblem]:
        """Problems of a rollout, rollouts counted from 0. draw 0: its first; others: in place of some that are left out."""
        return [DrawnProblem(index) for index in self.shuffled(number, draw, count)]

    def shuffled(self, number: int, draw: int, count: int) -> list[int]:
        """Places of examples: draw 0 passes over all, one rollout after another; others are drawn by themselves."""
        population = len(self.examples)
        if draw == 0:
            return sample_indices(number, count, population, self.seed)
        drawn = self.generator(number, draw).permutation(population)
        return [int(drawn[place % population]) for place in range(count)]

    def generator(self, number: int, draw: int) -> np.random.Generator:
        """Random numbers of one draw of a rollout; those of draw 0 are not of the shuffle's own streams."""
        return np.random.Generator(np.random.Philox(key=[self.seed, (1 << 40) + (number << 12) + draw]))

    def learn(self, asked: Sequence[DrawnProblem], outcome: Outcome) -> None:
        """Take in what became of the problems that a rollout learns from, or left out."""

    def metrics(self, asked: Sequence[DrawnProblem]) -> dict[str, float]:
        """What is said of a rollout beside its rewards, each figure under its name."""
        return {}


@dataclass(frozen=True)
class CurriculumContext:
    """What a curriculum may ask of a run: how many rollouts it has, and entropy_N, the nats that the start model has of what
    follows each prompt; None where it was not asked."""

    rollouts: int = 1
    entropy_N: np.ndarray | None = None


NO_CONTEXT = CurriculumContext()


class Curriculum(Config):
    """hints: whether answers may be given something to begin with. asks_model: whether the start model reads all prompts."""

    hints: ClassVar[bool] = False
    asks_model: ClassVar[bool] = False

    def at(self, share: float) -> list[float]:
        """What of its choices depends on the share of the run that is done; the same numbers, the same choices."""
        return []

    def chooser(self, examples: list[Example], seed: int, known: CurriculumContext = NO_CONTEXT) -> Chooser:
        """Raises ConfigError for examples that it cannot choose from."""
        return Chooser(examples, seed)
