"""Apollo: few layers that learn to be many, Pan et al. 2024, Preparing Lessons for Progressive Training (arXiv:2401.09192).

A stage has N of the model's L layers. Each step draws a depth from N to L, shallow ones more often (low-value-prioritized
sampling), and passes through as many layers, which share the N weights: layer i has those of floor(i N / depth), and so each
weight learns what higher layers do. At a growth from N to M layers, layer j begins as layer floor(j N / M) (interpolation).

The density is that of the authors' code: x uniform from 0 to 1 gives N times the hyperbola m / (x + n) that is L / N + 0.4 at 0
and 0.6 at 1, held between 1 and L / N, and rounded down. Differs from it: a step has one depth, however many parts its batch is
computed in; and the optimizer's state goes with the weights, where that code leaves each block the state of what it was.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from lm.config import ConfigError
from lm.depth import Depth
from lm.model import ModelConfig
from tasks.pretrain.growths.base import SLOT, Growth, Place, copied_from

LEAST, ABOVE, BELOW = 1e-6, 0.4, 0.6


def low_value(x: float, ratio: float) -> float:
    """The depth, over that of the stage, that a number x from 0 to 1 gives; the whole model's is `ratio`, which is the most."""
    high = ratio + ABOVE
    n = (high * LEAST - BELOW) / (BELOW - high)
    return min(max(BELOW * (n + 1) / (max(x, LEAST) + n), 1.0), ratio)


class Apollo(Growth):
    name: Literal["apollo"] = "apollo"
    place: Place = Field("between", description="of shared and new layers; on_top: as a stack")
    sampling: Literal["low_value", "even"] = Field(
        "low_value", description="even: all depths alike, as the paper's ablation"
    )
    seed: int = Field(0, ge=0, description="of the depths")

    def check(self, shape: ModelConfig) -> None:
        """Raises ConfigError for a model that cannot grow so: layers in whose place others are passed must be as they are."""
        super().check(shape)
        if any(shape.layer(block) != shape.layer(0) for block in range(shape.layers)):
            raise ConfigError(f"{SLOT}: layers take each other's place, and those of the pattern differ: use staged")

    def depth(self, layers: int, step: int, steps: int) -> Depth | None:
        count = next(stage.layers for stage in reversed(self.stage_starts(layers, steps)) if stage.step <= step)
        if count == layers:
            return None
        drawn = self.drawn(count, layers, step)
        return Depth(tuple(copied_from(count, drawn, self.place)), (1.0,) * drawn)

    def drawn(self, small: int, large: int, step: int) -> int:
        """The depth of a step in a stage of `small` layers, of a model of `large`."""
        generator = np.random.Generator(np.random.Philox(key=[self.seed, step]))
        if self.sampling == "even":
            return small + int(generator.integers(large - small + 1))
        return int(low_value(generator.random(), large / small) * small)
