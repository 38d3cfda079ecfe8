"""A drawn answer, and what strategies that draw have in common: temperature, top-p and min-p."""

from functools import partial
from typing import Literal

from pydantic import Field

from lm.decoding import Rows
from lm.model import Decoder
from lm.sampler import Completion, MakeRows, generate
from lm.strategies.base import DecodedAnswer, PromptBatch, Strategy, as_decoded_answer, number_of
from lm.strategies.filters import FilteredRows
from lm.temperature import Divisor


class Drawing(Strategy):
    temperature: Divisor = Field(1.0, description="logits are divided by it before a token is drawn")
    top_p: float = Field(1.0, gt=0, le=1, description="draw from the fewest tokens of so much probability; 1: from all")
    min_p: float = Field(0.0, ge=0, lt=1, description="and of so much of the likeliest one's probability; 0: from all")

    def sample_completions(self, model: Decoder, asked: PromptBatch, samples: int) -> list[list[Completion]]:
        """Drawn completions to each prompt, `samples` of each. The draws of one are of its prompt's name and its own number:
        more samples are those of fewer and others."""
        prompts = [prompt for prompt in asked.prompts for _ in range(samples)]
        numbers = [number_of(name, sample) for name in asked.names for sample in range(samples)]
        found = self.sample_numbered(model, asked, prompts, numbers)
        return [found[first : first + samples] for first in range(0, len(found), samples)]

    def sample_numbered(
        self, model: Decoder, asked: PromptBatch, prompts: list[list[int]], numbers: list[int]
    ) -> list[Completion]:
        """A drawn completion to each of these prompts, whose draws are of these numbers beside the seed."""
        make: MakeRows = Rows
        if self.top_p < 1 or self.min_p > 0:
            make = partial(FilteredRows, top_p=self.top_p, min_p=self.min_p)
        end, most = asked.tokenizer.end_id, asked.max_new_tokens
        return generate(model, prompts, most, self.temperature, end, asked.seed, draws=numbers, make_rows=make)


class Sample(Drawing):
    """One drawn answer."""

    name: Literal["sample"] = "sample"

    def __call__(self, model: Decoder, asked: PromptBatch) -> list[DecodedAnswer]:
        return [as_decoded_answer(completion) for (completion,) in self.sample_completions(model, asked, 1)]
