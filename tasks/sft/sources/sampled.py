"""What sources have in common that let the start model answer. B answers."""

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from lm.config import Config
from lm.model import Decoder
from lm.problems.example import Example, unit_hash
from lm.sampler import Completion, generate, rows_for
from lm.temperature import Divisor
from lm.tokenizer import Tokenizer

# Prompts that are answered in one call, so that answers of a hundred thousand problems are not all waited for at once
AT_ONCE = 64


class Sampled(Config):
    """A source whose draws are of each problem's id, so that no problem's answers depend on the others."""

    weight: float = Field(1.0, gt=0, description="of the conversations in a step, beside the other sources' weights")
    samples: int = Field(16, gt=0, description="answers to each problem")
    max_new_tokens: int = Field(32, gt=0)
    temperature: Divisor = 1.0

    def answer_problems(
        self, examples: list[Example], tokenizer: Tokenizer, model: Decoder, seed: int
    ) -> Iterator[list[tuple[Example, list[Completion]]]]:
        """Problems with their answers, some at a time; those that leave no room in the context are left out."""
        room = model.config.context - self.max_new_tokens
        asked = [e for e in examples if len(tokenizer.chat(e.prompt)) <= room]
        for start in range(0, len(asked), AT_ONCE):
            some = asked[start : start + AT_ONCE]
            prompts, keys = [tokenizer.chat(e.prompt) for e in some], [f"own:{e.id}" for e in some]
            yield list(zip(some, self.completions(prompts, keys, tokenizer, model, seed), strict=True))

    def completions(
        self, prompts: list[list[int]], keys: list[str], tokenizer: Tokenizer, model: Decoder, seed: int
    ) -> list[list[Completion]]:
        """`samples` completions of each prompt, whose draws are of its key."""
        S = self.samples
        every = [prompt for prompt in prompts for _ in range(S)]
        draws = [int(unit_hash(f"{key}:{sample}") * 2**53) for key in keys for sample in range(S)]
        rows = rows_for(model, AT_ONCE * S)
        made = generate(model, every, self.max_new_tokens, self.temperature, tokenizer.end_id, seed, rows, draws)
        return [made[n : n + S] for n in range(0, len(made), S)]


def is_right(score: Any) -> bool:
    """Whether the verifier accepts an answer."""
    return score.valid and score.value >= 1


def is_wrong(score: Any) -> bool:
    """Whether the verifier refuses an answer; one without a verdict is neither right nor wrong."""
    return score.valid and score.value < 1
