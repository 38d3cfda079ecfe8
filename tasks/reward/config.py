"""The parameters of reward models."""

from pydantic import Field, model_validator

from lm.config import choice
from lm.pairs.recipe import PairsRecipe
from tasks.core.config import StartModel
from tasks.reward import losses


class RewardConfig(PairsRecipe):
    model: StartModel
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

    @model_validator(mode="after")
    def _fits(self) -> "RewardConfig":
        if self.members == 1 and self.share < 1:
            raise ValueError("share is of several heads: set members to 2 or more, or share to 1")
        if self.rounds > self.steps:
            raise ValueError(f"rounds must be no more than steps (got {self.rounds} and {self.steps})")
        return self
