"""How often an answer repeats itself: the reward of Implicit Unlikelihood Training, Lagutin et al. 2021 (arXiv:2101.04229)."""

from typing import Literal

from pydantic import Field

from tasks.rl.rewards.base import Answer, Part, RewardContext


def repeated(ids: list[int], n: int) -> float:
    """seq-rep-n: 1 - different n-grams / n-grams; 0 of fewer than n tokens."""
    grams = [tuple(ids[start : start + n]) for start in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


class Repetition(Part):
    """The share of n-grams of tokens that an answer had before, a punishment: its weight is negative. Differs from the paper,
    which lowers repetition alone, in turns with unlikelihood training on text: here it is added to what else is rewarded, and
    there is no unlikelihood loss."""

    name: Literal["repetition"] = "repetition"
    weight: float = Field(-1.0, description="what the share is multiplied by before the parts are added")
    n: int = Field(4, gt=0, description="tokens of an n-gram")

    def __call__(self, answers: list[Answer], context: RewardContext) -> list[float]:
        return [repeated(answer.ids, self.n) for answer in answers]
