"""The parameters of every stage that learns from pairs of answers."""

from typing import Any

from pydantic import Field

from lm import pairs, problems
from lm.config import Seed, choice
from lm.pairs.query import Query
from lm.training.recipe import Recipe

AnyPairs: Any = choice(pairs)  # named before a field of the same name hides the module


class PairsRecipe(Recipe):
    steps: int = Field(100, gt=0)
    batch: int = Field(32, gt=0, description="pairs a step")
    held_out_fraction: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="of the prompts, whose pairs are not learned from and tell how well others are ranked",
    )
    pairs: list[AnyPairs] = Field(min_length=1, description="where pairs come from: each of these gives all it has")
    query: Query | None = Field(
        None,
        description="pairs are left out whose labels would tell little beside those before them; none where none is given",
    )
    folder: str = Field("data/preferences", description="where files of pairs are; all of it is a DVC dependency")
    problems: choice(problems)
    seed: Seed

    @property
    def rows_apart(self) -> str:
        return "the two answers of a pair are compared, each by itself"
