"""What a step of distillation asks: problems, with what a model answers to them, and text of the plan."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lm.calibration import Batch
from lm.config import ConfigError
from lm.model import Decoder
from lm.problems.example import Example
from lm.sampler import generate, rows_for
from lm.tokenizer import Tokenizer
from lm.training.data.conversations import Conversation, collate, demonstration_conversation, sample_indices
from lm.training.data.plan import Plan


def problems_that_fit(
    slot: str,
    tokenizer: Tokenizer,
    examples: Iterable[Example],
    context: int,
    longest: int,
    fits: Callable[[list[int], int], bool],
) -> list[Conversation]:
    """Problems whose prompt leaves room in the context for an answer of `longest` tokens, and whose demonstration fits(ids,
    longest). Raises ConfigError, which names the parameter `slot`, where there are none."""
    every = [demonstration_conversation(tokenizer, example) for example in examples]
    room = context - longest
    found = [each for each in every if len(each.prompt) <= room and fits(each.completion, longest)]
    if not found:
        why = f"no prompt fits the context of {context} less {longest}"
        if any(len(each.prompt) <= room for each in every):
            why = f"no demonstration has {longest} tokens at the most: raise it"
        raise ConfigError(f"{slot}: {why}")
    return found


class DistillationBatches:
    """The problems and the sequences of text of each step, which its number and the seed decide alone."""

    def __init__(self, problems: list[Conversation], plan: Plan, batch: int, texts: int, seed: int) -> None:
        self._problems, self._plan, self._batch, self._texts, self._seed = problems, plan, batch, texts, seed

    def problems_at(self, step: int) -> list[Conversation]:
        """`batch` problems with their demonstrations."""
        return [self._problems[i] for i in sample_indices(step, self._batch, len(self._problems), self._seed)]

    def text_at(self, step: int) -> Tensor:
        """ids_BN of up to `texts` sequences; the plan begins anew where it ends."""
        return self._plan.batch(step % self._plan.steps)[: self._texts]

    def first_batches(self, context: int, pad_id: int) -> list[Batch]:
        """(ids_BT, mask_BT) of the first step's demonstrations and text, as far as they fit; the mask is true where a token is
        no padding."""
        some = [each for each in self.problems_at(0) if len(each) <= context]
        found = []
        if some:
            lengths = torch.tensor([len(each) for each in some])
            ids_BT, _ = collate(some, pad_id)
            found.append((ids_BT, torch.arange(ids_BT.shape[1]) < lengths[:, None]))
        if len(text_BT := self.text_at(0)[:, :context]):
            found.append((text_BT, torch.ones_like(text_BT, dtype=torch.bool)))
        return found

    def sample_answers(
        self, step: int, model: Decoder, prompts: list[list[int]], longest: int, temperature: float, end_id: int
    ) -> list[list[int]]:
        """What the model, which is left in evaluation mode, answers to these prompts of the step."""
        model.eval()
        rows, seed = rows_for(model, self._batch), self._seed * 1_000_003 + step
        return [each.ids for each in generate(model, prompts, longest, temperature, end_id, seed, rows)]
