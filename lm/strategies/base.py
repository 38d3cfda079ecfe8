"""What every strategy is given, and what it gives."""

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import Field

from lm.config import Config
from lm.model import Decoder
from lm.problems.example import unit_hash
from lm.sampler import Completion
from lm.tokenizer import Tokenizer


@dataclass(frozen=True)
class PromptBatch:
    """Prompts as token ids, each of which leaves room in the model's context, and a name of each that decides its draws beside
    the seed.

    max_new_tokens: of an answer at most. score: the value of a text as the answer to the prompt of that place, None where it
    has none; None: nobody scores.
    """

    tokenizer: Tokenizer
    prompts: list[list[int]]
    names: list[str]
    max_new_tokens: int
    seed: int = 0
    score: Callable[[int, str], float | None] | None = None

    def text(self, ids: list[int]) -> str:
        """What was written, without the token that ends it."""
        return self.tokenizer.decode(ids)


@dataclass(frozen=True)
class DecodedAnswer:
    """The answer to a prompt.

    tokens: what the model was asked for behind the prompt, in answers that were not taken too, and what a strategy put there;
    of a greedy answer its length. passes: how many times the model was asked one after the other, which is what an answer waits
    for."""

    ids: list[int]
    tokens: int
    passes: int


class Strategy(Config):
    """One answer a prompt, in their order. It depends on the model, its prompt, its name, the seed and what is chosen here;
    never on the other prompts, on a CPU to the last bit, of a model with experts to rounding, since a product has as many rows
    as tokens chose the expert."""

    label: str = Field(
        "",
        pattern="^[a-z0-9_]*$",
        description="what its figures are called; empty: as it is, with its number of answers or beams",
    )

    @property
    def metric_label(self) -> str:
        """What its figures are called."""
        return self.label or self.default_label

    @property
    def default_label(self) -> str:
        """What its figures are called where it has no label."""
        return str(getattr(self, "name"))  # noqa: B009 - each strategy has its own

    @property
    def assistants(self) -> list[str]:
        """Names of the folders of data/assistants whose models it reads."""
        return []

    @property
    def answers(self) -> int:
        """How many answers it writes for one, at most."""
        return int(getattr(self, "samples", 1))

    def check(self, max_new_tokens: int) -> None:
        """Raises ValueError where it cannot be done in so many tokens."""

    def __call__(self, model: Decoder, asked: PromptBatch) -> list[DecodedAnswer]:
        """The answers. Raises ConfigError for a model that it cannot be done with."""
        raise NotImplementedError


def number_of(name: str, sample: int | str) -> int:
    """The number, below 2^53, that the draws of one of a prompt's answers are of, beside the seed."""
    return int(unit_hash(f"draws:{name}:{sample}") * 2**53)


def as_decoded_answer(completion: Completion) -> DecodedAnswer:
    """A completion as an answer: a token a pass."""
    return DecodedAnswer(completion.ids, len(completion.ids), len(completion.ids))


def best_answer(completions: list[Completion], best: int) -> DecodedAnswer:
    """One of several completions, which were written beside each other."""
    lengths = [len(completion.ids) for completion in completions]
    return DecodedAnswer(completions[best].ids, sum(lengths), max(lengths))
