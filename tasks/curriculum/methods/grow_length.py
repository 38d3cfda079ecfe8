"""GrowLength (Jin et al. 2023, arXiv:2310.00576): training begins with short sequences, which grow in stages; tokens a step
stay as many, so that early steps have more sequences and cheaper attention.

The paper names no rule for the length of the stages; here each has the same number of steps, and lengths double. Documents
lie end to end as in shuffled packing, and sequences are shuffled within a stage.
"""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from lm.config import Config
from tasks.core.config import ConfigError
from tasks.curriculum.plan import Budget, Documents, Draw, Ranges
from tasks.curriculum.stream import concat_plans, cut_sequences


def stages(shortest: int, longest: int, steps: int) -> list[tuple[int, int, int]]:
    """(length, first step, steps) of each stage; a length for which no step is left has no stage."""
    lengths = [shortest << doubled for doubled in range((longest // shortest).bit_length())]
    edges = [steps * index // len(lengths) for index in range(len(lengths) + 1)]
    found = zip(lengths, edges[:-1], np.diff(edges).tolist(), strict=True)
    return [(length, first, count) for length, first, count in found if count]


class GrowLength(Config):
    name: Literal["grow_length"] = "grow_length"
    takes_orders: ClassVar[bool] = True
    min_length: int = Field(32, gt=0, description="predictions a sequence in the first stage")
    max_length: int = Field(256, gt=0, description="in the last: min_length, doubled as often as you like")

    @model_validator(mode="after")
    def _doubles(self) -> "GrowLength":
        ratio, rest = divmod(self.max_length, self.min_length)
        if rest or ratio < 1 or ratio & (ratio - 1):
            raise ValueError(
                f"max_length must be min_length times a power of two, and {self.max_length} is not {self.min_length} times one"
            )
        return self

    def __call__(self, documents: Documents, draw: Draw, budget: Budget, seed: int) -> Ranges:
        """Tokens a step are constant, so tokens_per_step must be a multiple of max_length."""
        if budget.tokens_per_step % self.max_length:
            raise ConfigError(
                f"curriculum.tokens_per_step: {budget.tokens_per_step} is no multiple of "
                f"curriculum.method.max_length {self.max_length}"
            )
        stream, available = draw(budget.steps * budget.tokens_per_step + 1), int(documents.length.sum())
        found, first_steps = [], []
        for number, (length, first, count) in enumerate(stages(self.min_length, self.max_length, budget.steps)):
            per_step = budget.tokens_per_step // length
            firsts = first * budget.tokens_per_step + np.arange(count * per_step) * length
            found.append(cut_sequences(stream, firsts, length, per_step, max(1, available // length), seed, number))
            first_steps.append(first)
        return concat_plans(found, first_steps)
