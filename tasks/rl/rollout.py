"""Rollouts: sample answers to a step's problems and let the verifier score them. G problems, S samples of each."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lm.model import Decoder
from lm.problems.example import Example, Score
from lm.sampler import generate
from lm.tokenizer import Tokenizer
from lm.training.conversations import Conversation


@dataclass(frozen=True)
class Rollout:
    """Conversations (G*S, problem by problem), rewards_GS, and mask_GS: 1 where the verifier gave a valid score."""

    conversations: list[Conversation]
    rewards_GS: Tensor
    mask_GS: Tensor
    finished: float


def rollout(
    model: Decoder,
    tokenizer: Tokenizer,
    verifier,
    examples: list[Example],
    samples: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> Rollout:
    """Answers sampled from the model as it is now; an answer that never ended is scored as it stands."""
    prompts = [tokenizer.chat(e.prompt) for e in examples for _ in range(samples)]
    completions = generate(model, prompts, max_new_tokens, temperature, tokenizer.end_id, seed)
    scores: list[Score] = [
        verifier.score(examples[i // samples], tokenizer.decode(c.ids)) for i, c in enumerate(completions)
    ]
    shape = (len(examples), samples)
    return Rollout(
        [Conversation(p, c.ids) for p, c in zip(prompts, completions, strict=True)],
        torch.tensor([s.value for s in scores]).view(shape),
        torch.tensor([float(s.valid) for s in scores]).view(shape),
        sum(c.finished for c in completions) / len(completions),
    )
