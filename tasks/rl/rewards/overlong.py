"""A punishment that grows towards the longest answer: Soft Overlong Punishment, DAPO, Yu et al. 2025 (arXiv:2503.14476)."""

from typing import Literal

from pydantic import Field

from tasks.rl.rewards.base import Answer, Part, RewardContext


def soft_punishment(tokens: int, longest: int, cache: float) -> float:
    """Equation 13: 0 up to longest - cache, then falling in a line to -1 at longest."""
    return min(0.0, max(-1.0, (longest - cache - tokens) / cache))


class Overlong(Part):
    """An answer that was cut off has max_new_tokens tokens, and so -1. Differs from the paper: the buffer is a share of
    max_new_tokens; the paper's is 4,096 of 20,480 tokens, a fifth."""

    name: Literal["overlong"] = "overlong"
    buffer: float = Field(0.2, gt=0, le=1, description="share of max_new_tokens over which the punishment grows")

    def __call__(self, answers: list[Answer], context: RewardContext) -> list[float]:
        cache = self.buffer * context.longest
        return [soft_punishment(len(answer.ids), context.longest, cache) for answer in answers]
