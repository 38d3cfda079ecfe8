"""Rollouts: answers sampled to some problems and scored by the verifier, as the updates that follow read them.

G problems, S samples of each, B = G x S answers problem by problem, T predictions, N = T + 1 tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lm.model import Decoder
from lm.problems.example import Example, Score
from lm.sampler import Completion, generate, rows_for
from lm.tokenizer import Tokenizer
from lm.training.components import Component
from lm.training.data.conversations import Conversation, collate


@dataclass(frozen=True)
class Verdicts:
    """Answers to problems: rewards_GS, and mask_GS, which is 1 where the verifier gave a valid score."""

    prompts: list[list[int]]
    completions: list[Completion]
    rewards_GS: Tensor
    mask_GS: Tensor


def answered(
    model: Decoder,
    tokenizer: Tokenizer,
    verifier,
    examples: list[Example],
    samples: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> Verdicts:
    """Verdicts on answers of the model as it is now; an answer that never ended is scored as it stands."""
    prompts = [tokenizer.chat(e.prompt) for e in examples for _ in range(samples)]
    rows = rows_for(model, len(prompts))
    completions = generate(model, prompts, max_new_tokens, temperature, tokenizer.end_id, seed, rows)
    scores: list[Score] = [
        verifier.score(examples[i // samples], tokenizer.decode(c.ids)) for i, c in enumerate(completions)
    ]
    shape = (len(examples), samples)
    return Verdicts(
        prompts,
        completions,
        torch.tensor([s.value for s in scores]).view(shape),
        torch.tensor([float(s.valid) for s in scores]).view(shape),
    )


@dataclass(frozen=True)
class Rollout:
    """ids_BN; mask_BT, 1 where the predicted token is of an answer with a verdict; logp_old_BT (nats), that of each token of an
    answer when it was sampled; advantages_B; metrics_3: the mean reward, the mean tokens of an answer, the share that ended."""

    ids_BN: Tensor
    mask_BT: Tensor
    logp_old_BT: Tensor
    advantages_B: Tensor
    metrics_3: Tensor

    def metrics(self) -> dict[str, float]:
        return dict(zip(("reward", "completion_tokens", "finished"), self.metrics_3.tolist(), strict=True))


def rollout_of(sampled: Verdicts, advantages_GS: Tensor, pad_id: int) -> Rollout:
    """What an update reads of the answers; of those without a verdict nothing counts, nor do their lengths in a mean."""
    conversations = [Conversation(p, c.ids) for p, c in zip(sampled.prompts, sampled.completions, strict=True)]
    ids_BN, mask_BT = collate(conversations, pad_id)
    logp_old_BT = torch.zeros_like(mask_BT)
    for row, (prompt, completion) in enumerate(zip(sampled.prompts, sampled.completions, strict=True)):
        start = len(prompt) - 1
        logp_old_BT[row, start : start + len(completion.ids)] = torch.tensor(completion.logps)
    valid = sampled.mask_GS.sum().clamp(min=1)
    reward = (sampled.rewards_GS.where(sampled.mask_GS > 0, 0)).sum() / valid
    lengths, ended = (
        sum(of(c) for c in sampled.completions) / len(conversations)
        for of in (lambda c: len(c.ids), lambda c: c.finished)
    )
    metrics_3 = torch.tensor([reward.item(), lengths, ended], dtype=torch.float64)
    return Rollout(
        ids_BN, mask_BT * sampled.mask_GS.flatten()[:, None], logp_old_BT, advantages_GS.flatten(), metrics_3
    )


class Rollouts(Component):
    """The rollout that is being learned from: made before its first update, and kept for those that follow, in checkpoints too.

    updates: how often each answer is learned from. minibatches: as many updates make one pass over the answers, each of as
    many whole problems, in an order that is new in every pass.
    """

    name = "rollouts"

    def __init__(
        self, make: Callable[[int], Rollout], problems: int, updates: int, minibatches: int, seed: int
    ) -> None:
        self._make, self._problems, self._minibatches, self._seed = make, problems, minibatches, seed
        self.each = updates * minibatches
        self._held: dict[str, Tensor] = {}

    def at(self, step: int) -> tuple[Rollout, Tensor]:
        """(rollout, rows_M of it that the update is of). Steps must be asked for in their order."""
        number, update = divmod(step, self.each)
        rollout = Rollout(**self._held) if update else self._make(number)
        self._held = vars(rollout) if update + 1 < self.each else {}
        turn, minibatch = divmod(update, self._minibatches)
        key = [self._seed, number * (self.each // self._minibatches) + turn]
        order = np.random.Generator(np.random.Philox(key=key)).permutation(self._problems)
        size, samples = self._problems // self._minibatches, len(rollout.ids_BN) // self._problems
        chosen_M = torch.from_numpy(np.sort(order[minibatch * size : (minibatch + 1) * size]))
        return rollout, (chosen_M[:, None] * samples + torch.arange(samples)).flatten()

    def state(self) -> dict[str, Tensor]:
        """What the next step needs of the rollout before it; empty where it makes a new one."""
        return dict(self._held)

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""
        self._held = dict(state)
