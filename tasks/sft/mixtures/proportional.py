"""Sources by how many examples they have, with a limit and a temperature (Raffel et al. 2020, T5, arXiv:1910.10683, section
3.5.2: examples-proportional and temperature-scaled mixing)."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from lm.config import Config
from tasks.sft.mixtures.even import spread_sources


def rates(weights: Sequence[float], counts: Sequence[int], limit: int, temperature: float) -> list[float]:
    """Share of each source: w min(n, limit)^(1 / temperature), over their sum. At temperature 1 in proportion to the examples;
    the higher, the more alike."""
    own = [w * min(n, limit) ** (1 / temperature) for w, n in zip(weights, counts, strict=True)]
    return [rate / sum(own) for rate in own]


class Proportional(Config):
    """Evenly over the run, as `even` has it. Differs from T5: weights of the sources multiply the rates."""

    name: Literal["proportional"] = "proportional"
    limit: int = Field(65536, gt=0, description="examples of a source that count at most; T5 tries 2^16 to 2^21")
    temperature: float = Field(1.0, ge=1, description="1: by the number of examples; the higher, the more alike")

    def __call__(self, weights_S: Sequence[float], counts_S: Sequence[int], places: int) -> np.ndarray:
        return spread_sources(rates(weights_S, counts_S, self.limit, self.temperature), places)
