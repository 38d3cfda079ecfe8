"""Hints on problems that the policy fails at: progressive hints, Keye-VL 1.5, Yang et al. 2025 (arXiv:2509.01563)."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.problems.example import Example
from tasks.rl.curricula.base import NO_CONTEXT, Chooser, Curriculum, CurriculumContext, DrawnProblem, Outcome


def next_level(level: int, scores: list[float], levels: int) -> int:
    """The next level of a problem: one more where no answer with a verdict scored above 0, one less where each scored 1."""
    known = [score for score in scores if score == score]
    up = bool(known) and max(known) <= 0
    down = bool(known) and min(known) >= 1
    return min(max(level + up - down, 0), levels)


class Hinting(Chooser):
    """Problems come as they do when shuffled; each has a level of its own, 0 at first."""

    def __init__(self, examples: list[Example], seed: int, levels: int) -> None:
        super().__init__(examples, seed)
        self._levels, self._level_N = levels, torch.zeros(len(examples), dtype=torch.int64)

    def choose(self, number: int, draw: int, count: int) -> list[DrawnProblem]:
        indices = self.shuffled(number, draw, count)
        return [DrawnProblem(index, int(self._level_N[index]) / (self._levels + 1)) for index in indices]

    def learn(self, asked: Sequence[DrawnProblem], outcome: Outcome) -> None:
        for problem, scores in zip(asked, outcome.scores_GS.tolist(), strict=True):
            level = round(problem.hint * (self._levels + 1))
            self._level_N[problem.index] = next_level(level, scores, self._levels)

    def metrics(self, asked: Sequence[DrawnProblem]) -> dict[str, float]:
        """The share of problems with a hint, and the mean share of a demonstration that was given."""
        hints = [problem.hint for problem in asked]
        return {"hinted": sum(hint > 0 for hint in hints) / len(hints), "hint": sum(hints) / len(hints)}

    def state(self) -> dict[str, Tensor]:
        return {"level_N": self._level_N.clone()}

    def load(self, state: dict[str, Tensor]) -> None:
        self._level_N = state["level_N"].clone()


class Hints(Curriculum):
    """A problem at which all answers failed is asked with more of its demonstration given, until one is right; the verifier
    sees the answer with what it was given, the loss what the model wrote. Differs from the paper: its five levels are hints
    that were written for each problem, from a concept to the whole solution; here level l of n gives the first l / (n + 1) of
    the demonstration's tokens, and falls again where all answers are right."""

    name: Literal["hints"] = "hints"
    hints: ClassVar[bool] = True
    levels: int = Field(5, gt=0, description="steps from no hint to all of the demonstration but its end")

    def chooser(self, examples: list[Example], seed: int, known: CurriculumContext = NO_CONTEXT) -> Chooser:
        return Hinting(examples, seed, self.levels)
