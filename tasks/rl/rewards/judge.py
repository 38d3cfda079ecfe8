"""A verdict that a model writes on an answer, several times, and the mean of what it gives: a generative judge with votes.

Inference-time scaling for generalist reward modeling (Liu et al. 2025, arXiv:2504.02495): a model writes principles, a
critique and a score of an answer; several of these are sampled in parallel, and the scores are added up.
"""

import math
import re
import sys
from typing import Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from lm.checkpoint import device
from lm.config import ConfigError
from lm.model import Decoder
from lm.model_folder import read_model
from lm.problems.example import unit_hash
from lm.sampler import generate, rows_for
from lm.temperature import Divisor
from lm.tokenizer import Tokenizer
from tasks.rl.rewards.base import Answer, Models, Part, RewardContext

QUESTION, ANSWER = "{question}", "{answer}"
PROMPT = (
    "Question:\n{question}\n\nAnswer:\n{answer}\n\nName what a good answer to this question needs, judge the answer by it, and "
    "end with a line `Score: ` and a whole number from 1, which is worst, to 10."
)


def mean_vote(votes: list[float], lowest: float, highest: float) -> float:
    """The mean of the votes, from 0 at the lowest to 1 at the highest; NaN where there is none."""
    return (sum(votes) / len(votes) - lowest) / (highest - lowest) if votes else math.nan


class Judge(Part):
    """The mean score, from 0 to 1, of `votes` verdicts. One that ends without a score, or with one beyond lowest and highest,
    is no vote; an answer without a vote is invalid. The same answer to the same problem gets the same verdicts in every
    rollout.

    Differs from the paper: the judge is a model as it is, not one trained by RL to judge, so that what a vote is worth is that
    model's; one answer is judged at a time; the mean in place of the sum; no meta reward model says which votes count.
    """

    name: Literal["judge"] = "judge"
    by: Literal["start", "scorer"] = Field(
        "start", description="who judges: the model that the policy begins as, or that of rl.scorer"
    )
    votes: int = Field(8, gt=0, description="verdicts on each answer")
    prompt: str = Field(PROMPT, description=f"what is asked, with {QUESTION} and {ANSWER} in it")
    pattern: str = Field(
        r"Score:\s*(-?\d+(?:\.\d+)?)",
        description="a regular expression, whose last match has the score as its first group",
    )
    lowest: float = Field(1.0, description="score that counts as 0")
    highest: float = Field(10.0, description="score that counts as 1")
    max_new_tokens: int = Field(256, gt=0, description="tokens that a verdict may have")
    temperature: Divisor = 1.0
    _judge: tuple[Decoder, Tokenizer] | None = PrivateAttr(None)

    @field_validator("prompt")
    @classmethod
    def _asks(cls, prompt: str) -> str:
        if missing := [name for name in (QUESTION, ANSWER) if name not in prompt]:
            raise ValueError(f"must have {missing[0]} in it")
        return prompt

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from None
        if not groups:
            raise ValueError("has no group, which is to be the score")
        return pattern

    @model_validator(mode="after")
    def _ordered(self) -> "Judge":
        if self.lowest >= self.highest:
            raise ValueError(f"lowest must be below highest (got {self.lowest:g} and {self.highest:g})")
        return self

    @property
    def models(self) -> list[Decoder]:
        return [self._judge[0]] if self._judge else []

    def open(self, models: Models) -> None:
        try:
            judge, tokenizer = read_model(models.start if self.by == "start" else models.scorer)
        except ValueError as error:
            raise ConfigError(f"rl.rewards: judge: {error}") from None
        self._judge = judge.to(device()).requires_grad_(False), tokenizer

    def __call__(self, answers: list[Answer], context: RewardContext) -> list[float]:
        """Says on stderr how many answers got no vote."""
        assert self._judge is not None, "open() comes first"
        votes = [list[float]() for _ in answers]
        for place, text in self._verdicts(answers, *self._judge):
            if (score := self.score(text)) is not None:
                votes[place].append(score)
        without = sum(not each for each in votes)
        if without:
            print(
                f"rl.rewards: judge: no vote on {without} of {len(answers)} answers; they are left out", file=sys.stderr
            )
        return [mean_vote(each, self.lowest, self.highest) for each in votes]

    def judge_prompt(self, answer: Answer) -> str:
        """What the judge is asked; braces in the question or the answer stay as they are."""
        said = {QUESTION: answer.example.prompt, ANSWER: answer.text}
        return re.sub("|".join(map(re.escape, said)), lambda match: said[match[0]], self.prompt)

    def score(self, verdict: str) -> float | None:
        """The score that a verdict ends with; None where it has none, or one that is none of the scale's."""
        found = [match[1] for match in re.finditer(self.pattern, verdict)]
        try:
            score = float(found[-1]) if found else math.nan
        except (TypeError, ValueError):  # a group that took no part, or is no number
            return None
        return score if self.lowest <= score <= self.highest else None

    def _verdicts(self, answers: list[Answer], judge: Decoder, tokenizer: Tokenizer) -> list[tuple[int, str]]:
        """(place of the answer, text) of all verdicts on the answers that leave room for one in the judge's context."""
        places, prompts, draws = list[int](), list[list[int]](), list[int]()
        for place, answer in enumerate(answers):
            try:
                ids = tokenizer.chat(self.judge_prompt(answer))
            except ValueError:  # it spells a control token of the judge's template
                continue
            if len(ids) + self.max_new_tokens > judge.config.context:
                continue
            for vote in range(self.votes):
                places.append(place)
                prompts.append(ids)
                draws.append(int(unit_hash(f"judge:{answer.example.prompt}:{answer.text}:{vote}") * 2**53))
        rows = rows_for(judge, len(prompts))
        made = generate(judge, prompts, self.max_new_tokens, self.temperature, tokenizer.end_id, 0, rows, draws)
        return [(place, tokenizer.decode(one.ids)) for place, one in zip(places, made, strict=True)]
