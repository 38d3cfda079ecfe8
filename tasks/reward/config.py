"""The parameters of reward models."""

from typing import Any

from pydantic import Field, model_validator

from lm import pairs, problems
from lm.config import choice
from lm.training.recipe import Recipe
from tasks.core.config import StartModel
from tasks.reward import losses

AnyPairs: Any = choice(pairs)  # named before a field of the same name hides the module


class RewardConfig(Recipe):
    model: StartModel
    steps: int = Field(100, gt=0)
    batch: int = Field(32, gt=0, description="pairs a step")
    held_out_fraction: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="of the prompts, whose pairs are not learned from and tell how well others are ranked",
    )
    loss: choice(losses)
    members: int = Field(1, gt=0, description="heads that score, each by itself, on one model")
    share: float = Field(
        1.0, gt=0, le=1, description="of the pairs, from which each of several heads learns; 1: from all"
    )
    rounds: int = Field(
        1,
        gt=0,
        description="equal parts of the run, from the second of which on the hardest pairs are learned once more",
    )
    hard_fraction: float = Field(0.25, gt=0, le=1, description="of the pairs, which are the hardest of a round")
    pairs: list[AnyPairs] = Field(min_length=1, description="where pairs come from: each of these gives all it has")
    folder: str = Field("data/preferences", description="where files of pairs are; all of it is a DVC dependency")
    problems: choice(problems)
    seed: int

    @model_validator(mode="after")
    def _fits(self) -> "RewardConfig":
        if self.members == 1 and self.share < 1:
            raise ValueError("share is of several heads: set members to 2 or more, or share to 1")
        if self.rounds > self.steps:
            raise ValueError(f"rounds must be no more than steps (got {self.rounds} and {self.steps})")
        return self
