"""What a reward model makes of each step of an answer, held in bounds: Gao et al. 2024 (arXiv:2410.15115), section 4."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from lm.heads import scores_along
from lm.tokenizer import Tokenizer
from tasks.rl.rewards.base import Answer, RewardContext, StepRewards
from tasks.rl.rewards.model import Model, answer_ids, bounded


def ends_of(ids: Sequence[int], tokenizer: Tokenizer, mark: str) -> list[int]:
    """Places among the tokens of an answer of the last token of each of its steps: the one in which the mark behind a step
    comes to its end, or the one before it where that token goes on; and the answer's last, where something stands behind the
    last mark."""
    ends, first, passed = (
        list[int](),
        0,
        0,
    )  # of the step that goes on: its first token, and characters of it to pass over
    for place in range(len(ids)):
        text = tokenizer.decode(list(ids[first : place + 1]))
        found = text.rfind(mark, passed)
        if found < 0:
            continue
        behind = len(text) - found - len(mark)
        end = place if not behind else place - 1
        first = end + 1
        passed = len(tokenizer.decode([ids[place]])) - behind if behind else 0
        if end >= 0 and end not in ends:
            ends.append(end)
    left = tokenizer.decode(list(ids[first:]))[passed:]
    last = len(ids) - 1
    return ends if ends and not left.strip() else [*(end for end in ends if end < last), last]


def shaped(scores: Sequence[float], threshold: float | None, delta: bool) -> list[float]:
    """Values of K steps with these scores. threshold: a score counts by what it is short of it, and no more than 0
    (Clip); delta: each step but the last two has its score less that of the next one, the last but one its own, and the
    last 0, so that what they add up to is the first step's, or 0 of a single step (Delta)."""
    held = [score if threshold is None else min(score - threshold, 0.0) for score in scores]
    if not delta:
        return held
    return [here - after for here, after in zip(held[:-2], held[1:-1], strict=True)] + held[-2:-1] + [0.0]


class Process(Model):
    """The value of all steps together; with an advantage that a critic tells (`gae`) each step's stands at its last
    token, so that what comes before it is credited. Scores are probabilities, sigmoid of what the model in data/<rl.scorer>
    makes of the answer up to there. Clip and delta keep a policy from earning by more steps.

    Differs from the paper: the reward model is that of the stage reward, whose pairs are of steps where its source is
    `stepwise`, and not one of labelled steps; scores are clipped before differences are taken."""

    name: Literal["process"] = "process"  # type: ignore[assignment]
    by_step: ClassVar[bool] = True
    mark: str = Field("\n", min_length=1, description="what stands between two steps")
    clip: bool = Field(True, description="a step earns nothing for a score above the threshold")
    threshold: float = Field(0.5, ge=0, le=1, description="of the clip")
    delta: bool = Field(True, description="a step earns what its score is above that of the next one")

    def __call__(self, answers: list[Answer], context: RewardContext) -> list[float]:
        return [
            math.nan if steps is None else math.fsum(value for _, value in steps)
            for steps in self.step_rewards(answers, context)
        ]

    def step_rewards(self, answers: list[Answer], context: RewardContext) -> list[StepRewards | None]:
        assert self._scorer is not None, "open() comes first"
        scorer, tokenizer = self._scorer
        ends, read, places_read = list[list[int]](), list[list[int]](), list[list[int]]()
        given = list[int]()  # of an answer that was given its beginning, the tokens that the model did not write
        for answer in answers:
            ids = answer_ids(answer, tokenizer)
            given.append(len(ids) - len(answer.ids))
            whole = tokenizer.chat(answer.example.prompt) + ids
            fits = ids and len(whole) <= scorer.config.context
            ends.append(ends_of(ids, tokenizer, self.mark) if fits else [])
            if fits:
                read.append(whole)
                places_read.append([len(whole) - len(ids) + end for end in ends[-1]])
        each = scores_along(scorer, read, places_read, tokenizer.pad_id)
        scores = iter([s for some in each for s in bounded(some, self.bound, self.penalty).sigmoid().tolist()])
        found: list[StepRewards | None] = []
        for begun, places in zip(given, ends, strict=True):
            values = shaped([next(scores) for _ in places], self.threshold if self.clip else None, self.delta)
            # places are counted from where the model went on
            found.append([(max(p - begun, 0), v) for p, v in zip(places, values, strict=True)] if places else None)
        return found
