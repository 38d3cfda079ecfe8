"""A budget of tokens that tightens as the run goes on: Train Long, Think Short, Hammoud et al. 2025 (arXiv:2508.08940)."""

from math import floor
from typing import Literal

from pydantic import Field

from tasks.rl.rewards.base import Answer, Part, RewardContext


def budget(start: float, decay: float, cuts: int, share: float, smooth: bool = False, least: float = 1.0) -> float:
    """Tokens: max(least, start * decay ** floor(t / T)), where t is the step and the interval T is 1 / cuts of the run; without
    the floor where it is smooth."""
    return max(least, start * decay ** (share * cuts if smooth else floor(share * cuts)))


def within(tokens: int, limit: float) -> float:
    """1 up to the limit, then less and less, 0 from twice the limit on."""
    return min(1.0, max(0.0, 2 - tokens / limit))


def around(tokens: int, limit: float) -> float:
    """1 at the limit, less and less on either side of it, 0 of nothing and from twice the limit on: a triangle."""
    return max(0.0, 1 - abs(tokens - limit) / limit)


class LengthBudget(Part):
    """Beside the parts correct and format, as in the paper. Differs from the paper: what an answer past the budget loses is a
    line that ends at twice the budget, whatever shape the paper's length reward has; the start is a share of max_new_tokens,
    and the interval one of the run, so that the budget's course is that of a longer run, too.

    With `course: smooth` and `shape: around` it is the dynamic budget of Reinforcement Mid-Training, Tian et al. 2025
    (arXiv:2509.24375): one that decays at every step, and a reward that is a triangle over the tokens. Differs from it: the
    triangle's foot is at no tokens and at twice the budget."""

    name: Literal["length_budget"] = "length_budget"
    start: float = Field(1.0, gt=0, description="tokens of the first budget, as a share of max_new_tokens")
    decay: float = Field(0.7, gt=0, lt=1, description="what is left of the budget after each cut")
    cuts: int = Field(4, gt=0, description="equal intervals of the run, after each of which the budget is cut")
    course: Literal["cuts", "smooth"] = Field(
        "cuts", description="whether it is cut after each, or falls all the while"
    )
    least: float = Field(1.0, gt=0, description="tokens of the smallest budget")
    shape: Literal["within", "around"] = Field(
        "within", description="whether fewer tokens than the budget lose nothing, or as much as more do"
    )

    def limit(self, context: RewardContext) -> float:
        """Tokens that an answer may have without loss."""
        smooth = self.course == "smooth"
        return budget(self.start * context.longest, self.decay, self.cuts, context.share, smooth, self.least)

    def at(self, context: RewardContext) -> float:
        return self.limit(context)

    def __call__(self, answers: list[Answer], context: RewardContext) -> list[float]:
        limit, value = self.limit(context), around if self.shape == "around" else within
        return [value(len(answer.ids), limit) for answer in answers]
