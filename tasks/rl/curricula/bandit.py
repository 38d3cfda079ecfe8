"""Levels of problems as the arms of a bandit: DUMP, Wang et al. 2025 (arXiv:2504.09710).

L levels, W absolute advantages kept of each.
"""

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lm.config import ConfigError
from lm.problems.example import Example
from lm.training.data.conversations import sample_indices
from tasks.rl.curricula.base import NO_CONTEXT, Chooser, Curriculum, CurriculumContext, DrawnProblem, Outcome


def upper_bounds(learnability_L: np.ndarray, asked_L: np.ndarray) -> np.ndarray:
    """bounds_L: mean absolute advantage + sqrt(2 ln(all asked + 1) / (asked of the level + 1)), section 3.3."""
    return learnability_L + np.sqrt(2 * np.log(asked_L.sum() + 1) / (asked_L + 1))


def softmax(bounds_L: np.ndarray, temperature: float) -> np.ndarray:
    """probabilities_L: exp(bound / temperature), divided by their sum."""
    weights_L = np.exp((bounds_L - bounds_L.max()) / temperature)
    return weights_L / weights_L.sum()


def plain(level: str) -> str:
    """The level without characters that MLflow takes in no metric's name."""
    return re.sub(r"[^A-Za-z0-9_. -]", "_", level)


class Arms(Chooser):
    """Levels are drawn by their probabilities, problems of a level by a shuffle of its own in every pass over them."""

    def __init__(self, examples: list[Example], seed: int, window: int, temperature: float) -> None:
        super().__init__(examples, seed)
        self.levels = sorted({str(example.level) for example in examples})
        self._members = [[i for i, e in enumerate(examples) if str(e.level) == level] for level in self.levels]
        self._arm = {index: arm for arm, members in enumerate(self._members) for index in members}
        self._window, self._temperature = window, temperature
        self._asked_L = np.zeros(len(self.levels), np.int64)
        self._passed_L = np.zeros(len(self.levels), np.int64)
        self._kept: list[list[float]] = [[] for _ in self.levels]

    @property
    def probabilities_L(self) -> np.ndarray:
        learnability_L = np.array([sum(kept) / len(kept) if kept else 0.0 for kept in self._kept])
        return softmax(upper_bounds(learnability_L, self._asked_L), self._temperature)

    def choose(self, number: int, draw: int, count: int) -> list[DrawnProblem]:
        chosen = []
        for arm in self.generator(number, draw).choice(len(self.levels), count, p=self.probabilities_L):
            members = self._members[arm]
            (place,) = sample_indices(int(self._passed_L[arm]), 1, len(members), self.seed)
            self._passed_L[arm] += 1
            chosen.append(DrawnProblem(members[place]))
        return chosen

    def learn(self, asked: Sequence[DrawnProblem], outcome: Outcome) -> None:
        for problem, row_S in zip(asked, outcome.advantages_GS.tolist(), strict=True):
            arm = self._arm[problem.index]
            self._asked_L[arm] += 1
            self._kept[arm] = [*self._kept[arm], *(abs(value) for value in row_S if value == value)][-self._window :]

    def metrics(self, asked: Sequence[DrawnProblem]) -> dict[str, float]:
        """The share of each level in the rollout."""
        arms = [self._arm[problem.index] for problem in asked]
        return {f"asked {arm} {plain(level)}": arms.count(arm) / len(arms) for arm, level in enumerate(self.levels)}

    def state(self) -> dict[str, Tensor]:
        kept = [value for kept in self._kept for value in kept]
        return {
            "asked_L": torch.from_numpy(self._asked_L.copy()),
            "passed_L": torch.from_numpy(self._passed_L.copy()),
            "kept_L": torch.tensor([len(kept) for kept in self._kept]),
            "kept": torch.tensor(kept, dtype=torch.float64),
        }

    def load(self, state: dict[str, Tensor]) -> None:
        self._asked_L, self._passed_L = (state[name].numpy().copy() for name in ("asked_L", "passed_L"))
        self._kept = [part.tolist() for part in state["kept"].split(state["kept_L"].tolist())]


class Bandit(Curriculum):
    """Algorithm 1: levels whose answers have large advantages, of late, are asked more, and so are those that were asked
    little. Differs from the paper: what it calls distributions are the levels that a problem set tells; counted are problems,
    and each level passes over its own before one comes again."""

    name: Literal["bandit"] = "bandit"
    window: int = Field(300, gt=0, description="advantages of a level, the latest, that count")
    temperature: float = Field(0.1, gt=0, description="of the softmax over levels; high: all alike")

    def chooser(self, examples: list[Example], seed: int, known: CurriculumContext = NO_CONTEXT) -> Chooser:
        if all(example.level is None for example in examples):
            raise ConfigError(
                "rl.curriculum: bandit chooses between levels, of which these problems have none: give them a `level`, or take "
                "shuffled"
            )
        return Arms(examples, seed, self.window, self.temperature)
