"""What every environment shares: answers as they were written, by the model and by the environment, and how they are asked
for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from lm.config import Config
from lm.sampler import Completion
from lm.tokenizer import Tokenizer

# (prompts, numbers of their draws) -> what the model writes to each, up to its end or to max_new_tokens. What is written to a
# prompt depends on it and on its number alone.
Sample = Callable[[list[list[int]], list[int]], list[Completion]]


@dataclass
class Transcript(Completion):
    """An answer with all that environments added to it. own: of each token whether the model wrote it; logps are 0 where it
    did not. calls: how often an environment answered it."""

    own: list[bool] = field(default_factory=list)
    calls: int = 0

    @property
    def own_ids(self) -> list[int]:
        """Tokens that the model wrote."""
        return [index for index, own in zip(self.ids, self.own, strict=True) if own]

    def add(self, ids: Sequence[int], logps: Sequence[float], own: bool) -> None:
        """Write more."""
        self.ids += ids
        self.logps += logps
        self.own += [own] * len(ids)


class Environment(Config):
    """adds: whether it ever adds something to an answer."""

    adds: ClassVar[bool] = True

    @property
    def max_added_tokens(self) -> int:
        """Tokens that it may add to an answer, at most."""
        return 0

    def __call__(self, sample: Sample, tokenizer: Tokenizer, prompts: list[list[int]], most: int) -> list[Transcript]:
        """What was written to each prompt; `most` is how many tokens of an answer the model may write itself. An answer depends
        on its own prompt and on its place in the list alone."""
        raise NotImplementedError
