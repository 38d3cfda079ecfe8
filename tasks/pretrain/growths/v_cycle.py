"""A V-cycle of two levels: a smaller model out of the middle of the run, Zou et al. 2024, A Multi-Level Framework for
Accelerating Training Transformer Models (arXiv:2404.07999), section 3 and algorithm 1.

The whole model is trained for a few steps (`initial`). Then neighbouring layers are coalesced: a layer of the smaller model is
the mean of a group of them, W' = W R, where a column of R has 1 / n for each of the n layers of a group. The smaller model is
trained `until` so much of the run, and de-coalesced: every layer of a group is the group's layer, W = W' G, G being R
transposed, its columns made to add up to 1. What is made so is interpolated with what the model was before it was coalesced,
as (1 - alpha) before + alpha de-coalesced, which makes layers of a group differ again; embeddings, head and the last norm,
which both levels have, are interpolated alike. The whole model goes on from there. Each level begins without optimizer state,
as the runs of the authors' code, one a level, do.

Differs from the paper: depth alone, as that code does where both levels are as wide: width halves there, too, by a matrix F of
the same kind; two levels; one schedule of the rate for the whole run, where that code gives the smaller model four times the
rate.
"""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from lm.config import Config, ConfigError
from lm.depth import Change, Coalesced, Depth, Interpolated
from lm.model import ModelConfig
from tasks.pretrain.growths.base import SLOT, copied_from, steps_in


def groups_of(small: int, large: int) -> tuple[tuple[int, ...], ...]:
    """The neighbours among `large` layers, 1 or more, that each of `small` is the mean of: 0 1, 2 3 of 2 and 4."""
    found: list[list[int]] = [[] for _ in range(small)]
    for layer, group in enumerate(copied_from(small, large, "between")):
        found[group].append(layer)
    return tuple(map(tuple, found))


class VCycle(Config):
    name: Literal["v_cycle"] = "v_cycle"
    grows: ClassVar[bool] = True
    layers: int = Field(0, ge=0, description="of the smaller model; 0: half of them, rounded down")
    initial: float = Field(
        0.05, ge=0, lt=1, description="part of all steps before it, in which the whole model is trained"
    )
    until: float = Field(0.5, gt=0, lt=1, description="part of all steps at which the whole model is back")
    alpha: float = Field(0.25, gt=0, le=1, description="of the smaller model's weights, as the whole one goes on")

    @model_validator(mode="after")
    def _down_before_up(self) -> "VCycle":
        if self.initial >= self.until:
            raise ValueError(
                f"initial: {self.initial} is no less than until, {self.until}: no step is left to the smaller model"
            )
        return self

    def groups(self, layers: int) -> tuple[tuple[int, ...], ...]:
        """Blocks that become one, of a model of so many. Raises ConfigError where the smaller model would have as many."""
        small = self.layers or layers // 2
        if layers == 1:
            raise ConfigError(f"{SLOT}: a model of one layer has none to coalesce: use whole")
        if small >= layers:
            raise ConfigError(f"{SLOT}.layers: {small} layers, and the whole model has {layers}: give fewer")
        return groups_of(small, layers)

    def check(self, shape: ModelConfig) -> None:
        """Raises ConfigError for a model whose layers cannot be averaged so: those of a group must be of the same parts."""
        for first, *others in self.groups(shape.layers):
            for block in others:
                if shape.layer(block) != shape.layer(first):
                    raise ConfigError(
                        f"{SLOT}: layer {block} would be averaged with layer {first}, whose mixer, feed-forward layer or "
                        "embeddings are others: take layers that the pattern divides, or staged"
                    )

    def grown(self, layers: int, step: int, steps: int) -> list[Change]:
        """What comes before a step: the way down, the way up, or in a run that is short both."""
        found: list[Change] = [Coalesced(self.groups(layers))] if step == steps_in(self.initial, steps) else []
        if step == steps_in(self.until, steps):
            found.append(Interpolated(self.groups(layers), self.alpha))
        return found

    def depth(self, layers: int, step: int, steps: int) -> Depth | None:
        """The first block of each group, which holds its mean, between the two."""
        if not steps_in(self.initial, steps) <= step < steps_in(self.until, steps):
            return None
        firsts = tuple(group[0] for group in self.groups(layers))
        return Depth(firsts, (1.0,) * len(firsts))
