"""What a stage says that it will take: bytes of disk, and for one that trains the step that it repeats."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lm.depth import Growth
from lm.model import Decoder, ModelConfig
from lm.training.batch import Batch
from lm.training.flops import forward_flops_per_token
from lm.training.recipe import Recipe


@dataclass(frozen=True)
class Sampling:
    """Answers that a model writes for every so many steps: up to so many new tokens each, so many rows at once, to so many
    prompts of a length. steps: in the mean, where a coin says in which it is this model that writes."""

    model: Decoder
    answers: int
    rows: int
    prompts: int
    prompt: int
    new_tokens: int
    steps: float = 1


@dataclass(frozen=True)
class Step:
    """What a stage does in a step: the model it trains, what each model that writes samples first, and the batch.

    frozen: models that the batch's loss reads its rows with beside that, and does not train: a teacher, or the reference that
    a policy is held to; frozen_part: of all steps, the first, in which it does. growth: of the model within the run; None:
    it is whole from the first step on.
    """

    model: Decoder
    batch: Batch
    sampling: tuple[Sampling, ...] = ()
    frozen: tuple[Decoder, ...] = ()
    frozen_part: float = 1.0
    growth: Growth | None = None

    @property
    def frozen_flops(self) -> float:
        """FLOP a token of the passes of frozen models, of a step in which they are made."""
        return sum(forward_flops_per_token(frozen, self.batch.length) for frozen in self.frozen)


@dataclass(frozen=True)
class Lower:
    """The parameters to lower, in words, where weights and their optimizer, sampling, or the rest of a step is too much for the
    memory."""

    weights: str
    rest: str
    sampling: str = ""


@dataclass(frozen=True)
class Work:
    """The training of a stage. tokens: that count, in all steps. shape: of the model it trains. step(): what is done in each,
    with the longest sequences that there are; every model that it makes counts in the memory. data_bytes: tokens and plan in
    the process's memory at its end. full_steps: as many as have all tokens if each is as large as step()'s, where some
    are smaller; None: steps. parts: how many smaller steps each of those is cut into; empty: none is cut."""

    recipe: Recipe
    shape: ModelConfig
    steps: int
    tokens: float
    step: Callable[[], Step]
    lower: Lower
    data_bytes: float = 0.0
    full_steps: int | None = None
    parts: tuple[int, ...] = ()

    def tokens_after(self, counts: Sequence[float]) -> list[float]:
        """Tokens of as many of the first steps as each count says."""
        if not self.parts:
            return [count * (self.tokens / self.steps) for count in counts]
        ends, each = np.cumsum((0, *self.parts)), self.tokens / len(self.parts)
        return [float(tokens) for tokens in np.interp(counts, ends, each * np.arange(len(ends)))]


@dataclass(frozen=True)
class StageNeeds:
    """Bytes of a stage's output, and of its scratch at most, as many where it is None; and its training, if it trains."""

    output: float = 0.0
    scratch: float | None = None
    work: Work | None = None
