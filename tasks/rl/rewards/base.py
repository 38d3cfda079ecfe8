"""What every part of a reward is given of an answer, and how parts are added up."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from lm.config import Config
from lm.model import Decoder
from lm.problems.example import Example, Score
from lm.tokenizer import Tokenizer


@dataclass(frozen=True)
class Answer:
    """One answer to a problem. ids: the tokens that the model wrote, the end token included where it is `finished`; text: the
    whole answer, with what it was given to begin with and what an environment added to it; score: the verifier's."""

    example: Example
    ids: list[int]
    text: str
    finished: bool
    score: Score


@dataclass(frozen=True)
class RewardContext:
    """When answers are scored. share: of the run's steps that are done. longest: the tokens that an answer may have."""

    share: float
    longest: int


@dataclass(frozen=True)
class Models:
    """What parts may score with. start: the folder of the model that the policy begins as; scorer: that of `rl.scorer`.
    tokenizer: the policy's."""

    start: Path
    scorer: Path
    tokenizer: Tokenizer


# (place among the tokens that the model wrote, what is earned there) of each step of an answer
StepRewards = list[tuple[int, float]]


class Part(Config):
    """reads: the files that decide its values beside its parameters. models: the models that do, once they are open. by_step:
    whether `step_rewards` says where in an answer its value is earned; else all of it is at the last token."""

    by_step: ClassVar[bool] = False

    weight: float = Field(
        1.0, description="what its value is multiplied by before the parts are added; may be negative"
    )

    @property
    def reads(self) -> list[str]:
        return []

    @property
    def models(self) -> list[Decoder]:
        return []

    def open(self, models: Models) -> None:
        """Read what its values need, before the first of them is asked for. Raises ConfigError for a model that does not do."""

    def at(self, context: RewardContext) -> float:
        """What of its values depends on the context; the same number, the same values."""
        return 0.0

    def __call__(self, answers: list[Answer], context: RewardContext) -> list[float]:
        """The value of each answer, NaN where it cannot be told."""
        raise NotImplementedError

    def step_rewards(self, answers: list[Answer], context: RewardContext) -> list[StepRewards | None]:
        """Where each answer earns its value, of a part that is by step; None where it cannot be told."""
        raise NotImplementedError


@dataclass(frozen=True)
class Rewards:
    """each: the reward of each answer, NaN of an invalid one; values: those of each part before their weights; steps: what of a
    reward is earned before the last token, weights counted."""

    each: list[float]
    values: list[list[float]]
    steps: list[StepRewards]


def total_rewards(parts: Sequence[Part], answers: list[Answer], context: RewardContext) -> Rewards:
    """What the answers earn."""
    steps: list[StepRewards] = [[] for _ in answers]
    values = []
    for part in parts:
        if not part.by_step:
            values.append(part(answers, context))
            continue
        found = part.step_rewards(answers, context)
        values.append([math.nan if each is None else math.fsum(value for _, value in each) for each in found])
        for answer, into, each in zip(answers, steps, found, strict=True):
            into += [(place, part.weight * value) for place, value in each or [] if place < len(answer.ids) - 1]
    weights = [part.weight for part in parts]
    rewards = [sum(w * v for w, v in zip(weights, each, strict=True)) for each in zip(*values, strict=True)]
    return Rewards(rewards, values, steps)


def mean_values(values: list[list[float]]) -> list[float]:
    """The mean of each part's values over the answers to which all parts could tell theirs; 0 where there are none."""
    valid = [each for each in zip(*values, strict=True) if not any(map(math.isnan, each))]
    return [sum(part) / len(valid) for part in zip(*valid, strict=True)] if valid else [0.0] * len(values)


def part_names(parts: Sequence[Config]) -> list[str]:
    """The parts' names, by which they are logged; a name that stood before gets its number."""
    own = [part.model_dump()["name"] for part in parts]
    before = [own[:place].count(name) for place, name in enumerate(own)]
    return [f"{name}_{count + 1}" if count else name for name, count in zip(own, before, strict=True)]
