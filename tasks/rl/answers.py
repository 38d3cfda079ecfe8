"""Answers of the policy to some problems, sampled, scored by the verifier and rewarded: what a rollout is made of.

G problems, S samples of each, B = G x S answers problem by problem.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lm.model import Decoder
from lm.problems.example import Example
from lm.sampler import Completion, generate, rows_for
from lm.tokenizer import Tokenizer
from tasks.rl.advantages.base import rewards_differ
from tasks.rl.environments.base import Environment, Transcript
from tasks.rl.rewards.base import Answer, Part, RewardContext, StepRewards, total_rewards


@dataclass(frozen=True)
class Verdicts:
    """Answers to problems: rewards_GS, mask_GS, which is 1 where every part of the reward could be told, scores_GS, the
    verifier's, NaN where it failed, values, of each part one of each answer, and steps, what of each answer's reward is earned
    before its last token."""

    prompts: list[list[int]]
    completions: list[Transcript]
    rewards_GS: Tensor
    mask_GS: Tensor
    scores_GS: Tensor
    values: list[list[float]]
    steps: list[StepRewards]

    def subset(self, places: list[int]) -> "Verdicts":
        """Answers to the problems at these places alone, in this order."""
        samples = self.rewards_GS.shape[1]
        rows = [place * samples + sample for place in places for sample in range(samples)]
        return Verdicts(
            [self.prompts[row] for row in rows],
            [self.completions[row] for row in rows],
            self.rewards_GS[places],
            self.mask_GS[places],
            self.scores_GS[places],
            [[part[row] for row in rows] for part in self.values],
            [self.steps[row] for row in rows],
        )

    def equal_rewards_G(self) -> Tensor:
        """Whether the rewards of all valid answers to a problem are the same, as they are of fewer than two."""
        return ~rewards_differ(self.rewards_GS, self.mask_GS)

    def metrics(self) -> dict[str, float]:
        """The mean reward, the mean tokens that the model wrote of an answer, the share that ended."""
        valid = self.mask_GS.sum().clamp(min=1)
        reward = (self.rewards_GS.where(self.mask_GS > 0, 0)).sum() / valid
        lengths, ended = (
            sum(of(c) for c in self.completions) / len(self.completions)
            for of in (lambda c: sum(c.own), lambda c: c.finished)
        )
        return {"reward": reward.item(), "completion_tokens": lengths, "finished": ended}


def concat_verdicts(verdicts: Sequence[Verdicts]) -> Verdicts:
    """All of them, one after another."""
    return Verdicts(
        [prompt for each in verdicts for prompt in each.prompts],
        [completion for each in verdicts for completion in each.completions],
        torch.cat([each.rewards_GS for each in verdicts]),
        torch.cat([each.mask_GS for each in verdicts]),
        torch.cat([each.scores_GS for each in verdicts]),
        [
            [value for part in parts for value in part]
            for parts in zip(*(each.values for each in verdicts), strict=True)
        ],
        [steps for each in verdicts for steps in each.steps],
    )


def answer_problems(
    model: Decoder,
    tokenizer: Tokenizer,
    verifier: Any,
    environment: Environment,
    rewards: Sequence[Part],
    context: RewardContext,
    examples: list[Example],
    hints: list[list[int]],
    samples: int,
    temperature: float,
    seed: int,
) -> Verdicts:
    """Verdicts on answers of the model as it is now; an answer that never ended is scored as it stands. hints: the tokens that
    the answers to a problem are given to begin with, which belong to the prompt of an update and to the text that is scored."""
    places = [place for place in range(len(examples)) for _ in range(samples)]
    prompts = [tokenizer.chat(examples[place].prompt) + hints[place] for place in places]
    rows = rows_for(model, len(prompts))

    def sample(prompts: list[list[int]], draws: list[int]) -> list[Completion]:
        return generate(model, prompts, context.longest, temperature, tokenizer.end_id, seed, rows, draws)

    completions = environment(sample, tokenizer, prompts, context.longest)
    answers = [
        answer_of(tokenizer, verifier, examples[place], hints[place], completion)
        for place, completion in zip(places, completions, strict=True)
    ]
    found = total_rewards(rewards, answers, context)
    shape = (len(examples), samples)
    return Verdicts(
        prompts,
        completions,
        torch.tensor(found.each).view(shape),
        torch.tensor([float(not math.isnan(value)) for value in found.each]).view(shape),
        torch.tensor([a.score.value if a.score.valid else math.nan for a in answers]).view(shape),
        found.values,
        found.steps,
    )


def answer_of(tokenizer: Tokenizer, verifier: Any, example: Example, hint: list[int], written: Transcript) -> Answer:
    """The answer, scored. The verifier is not shown what an environment added: the answer must be the model's own."""
    own, text = written.own_ids, tokenizer.decode(hint + written.ids)
    said = text if len(own) == len(written.ids) else tokenizer.decode(hint + own)
    return Answer(example, own, text, written.finished, verifier.score(example, said))
