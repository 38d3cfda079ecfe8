"""What every way to learn from demonstrations beside rollouts shares. G problems of a rollout, S answers of each, D shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lm.config import Config
from lm.problems.example import Example
from lm.tokenizer import Tokenizer
from lm.training.components import Component
from lm.training.data.conversations import Conversation, demonstration_conversation


@dataclass(frozen=True)
class DemonstrationBatch:
    """Demonstrations that the updates of a rollout learn from as fine-tuning does: places_D of their problems among the
    examples; instead_G, of which problems the answers are left out for it; share, that of one demonstration in the loss of all
    updates that make one pass over the rollout, whose mean the policy's loss is."""

    places_D: list[int]
    instead_G: Tensor
    share: float


class DemonstrationSelector(Component):
    """Selector that shows nothing."""

    name = "demonstrations"

    def select(self, places_G: Sequence[int], scores_GS: Tensor) -> DemonstrationBatch:
        """What to show with a rollout that asked the problems at these places among the examples, those that gave way to others
        (rl.resample) included. scores_GS: the verifier's, NaN where it failed."""
        return DemonstrationBatch([], torch.zeros(len(places_G), dtype=torch.bool), 0.0)


class Demonstrations(Config):
    """of_prompts: whether what is shown is the text that is asked after, and not an answer to it."""

    of_prompts: ClassVar[bool] = False

    def conversation(self, tokenizer: Tokenizer, example: Example) -> Conversation:
        """What is shown of a problem."""
        return demonstration_conversation(tokenizer, example)

    def max_demonstrations(self, problems: int) -> int:
        """How many demonstrations are shown with a rollout of so many problems, at the most."""
        return 0

    def selector(self) -> DemonstrationSelector:
        return DemonstrationSelector()


def mean_scores(scores_GS: Tensor) -> Tensor:
    """share_G: the mean score of the answers with a verdict; NaN of a problem without any."""
    return scores_GS.nanmean(1)
