"""The verifier's score: the reward where nothing else is asked for."""

import math
from typing import Literal

from tasks.rl.rewards.base import Answer, Part, RewardContext


class Correct(Part):
    """An answer on which the verifier failed is invalid where this is a part."""

    name: Literal["correct"] = "correct"

    def __call__(self, answers: list[Answer], context: RewardContext) -> list[float]:
        return [answer.score.value if answer.score.valid else math.nan for answer in answers]
