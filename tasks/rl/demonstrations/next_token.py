"""The text before what is asked, learned as in pretraining: the second half of Reinforcement Mid-Training, Tian et al. 2025
(arXiv:2509.24375), whose loss is that of the policy and a share of next-token prediction."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.problems.example import Example
from lm.tokenizer import Tokenizer
from lm.training.data.conversations import Conversation
from tasks.rl.demonstrations.base import DemonstrationBatch, Demonstrations, DemonstrationSelector


class Reading(DemonstrationSelector):
    """Shows the text of every problem that is asked, beside its answers; one that was asked twice counts twice."""

    def __init__(self, weight: float) -> None:
        self._weight = weight

    def select(self, places_G: Sequence[int], scores_GS: Tensor) -> DemonstrationBatch:
        nothing_G = torch.zeros(len(places_G), dtype=torch.bool)
        return DemonstrationBatch(list(places_G), nothing_G, self._weight / len(places_G))


class NextToken(Demonstrations):
    """The tokens of each prompt, as plain text behind what begins a document, have the ordinary loss of the next token; what a
    problem asks is not in its own prompt, and is left to the policy. For problems that are made of text (`segments`), where it
    may stand in the prompt of another problem of the same text, but in none of a text that is held out.

    Differs from the paper: all tokens before what is asked count, and not those alone whose entropy is low; the likelihood is
    that at rl.temperature; a prompt that does not fit the context is left out."""

    name: Literal["next_token"] = "next_token"
    of_prompts: ClassVar[bool] = True
    weight: float = Field(0.1, gt=0, description="of the texts of a rollout beside its answers")

    def max_demonstrations(self, problems: int) -> int:
        return problems

    def selector(self) -> DemonstrationSelector:
        return Reading(self.weight)

    def conversation(self, tokenizer: Tokenizer, example: Example) -> Conversation:
        return Conversation([tokenizer.eos_id, *tokenizer.before], tokenizer.encode(example.prompt))
