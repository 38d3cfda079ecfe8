"""Answers that the model which the stage begins with samples to the problems of a split."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from lm.config import ConfigError
from lm.pairs.base import Source, SourceInputs
from lm.problems.example import JUDGED, Example, Split
from lm.sampler import Completion, generate, rows_for
from lm.temperature import Divisor

# Problems that are asked together: what is told of progress, and what the memory of their answers is for.
PROBLEMS = 256


@dataclass(frozen=True)
class Answered:
    """A problem, its prompt, and every answer to it that ended: ids up to the end token, in the order of sampling. drawn: as
    often as it was sampled, as an expectation over samples has it; answers: each once."""

    example: Example
    prompt_ids: list[int]
    drawn: list[list[int]]

    @property
    def answers(self) -> list[list[int]]:
        return [list(ids) for ids in dict.fromkeys(map(tuple, self.drawn))]


class Sampling(Source):
    """A source that samples: the same seed gives the same answers."""

    samples_model: ClassVar[bool] = True

    split: Split = Field(JUDGED, description="of the problem set, whose problems are asked")
    limit: int | None = Field(
        None, gt=0, description="problems that are asked, from the first on; all where none is given"
    )
    samples: int = Field(8, gt=0, description="answers to each problem")
    max_new_tokens: int = Field(32, gt=0)
    temperature: Divisor = 1.0

    def problem_batches(self, given: SourceInputs) -> Iterator[tuple[int, list[Example]]]:
        """The problems that leave room in the context, some at a time, with the number of the first. Raises ConfigError where
        there is none."""
        room = given.model.config.context - self.max_new_tokens
        every = given.problems.examples(self.split)
        examples = [e for e in every if len(given.tokenizer.chat(e.prompt)) <= room]
        if not examples:
            raise ConfigError(
                f"{given.slot}: max_new_tokens: none of the {len(every)} prompts fits the context of "
                f"{given.model.config.context} less {self.max_new_tokens}"
            )
        asked = examples[: self.limit]
        for first in range(0, len(asked), PROBLEMS):
            yield first, asked[first : first + PROBLEMS]
            given.progress(min(first + PROBLEMS, len(asked)), len(asked))

    def sample_completions(self, given: SourceInputs, prompts: list[list[int]], seed: int) -> list[list[Completion]]:
        """Completions of each prompt, `samples` of them."""
        every = [prompt for prompt in prompts for _ in range(self.samples)]
        rows, end = rows_for(given.model, PROBLEMS * self.samples), given.tokenizer.end_id
        found = generate(given.model, every, self.max_new_tokens, self.temperature, end, seed, rows)
        return [found[n : n + self.samples] for n in range(0, len(found), self.samples)]

    def answered_problems(self, given: SourceInputs) -> Iterator[Answered]:
        """Every problem with its answers."""
        for first, examples in self.problem_batches(given):
            prompts = [given.tokenizer.chat(e.prompt) for e in examples]
            found = self.sample_completions(given, prompts, given.seed * 1_000_003 + first)
            for example, prompt, completions in zip(examples, prompts, found, strict=True):
                yield Answered(example, prompt, [c.ids for c in completions if c.finished])
