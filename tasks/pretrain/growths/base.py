"""Stages of depth: how many layers a model has at a step, and which of them a larger one's begin as."""

from abc import abstractmethod
from itertools import pairwise
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from lm.config import Config, ConfigError
from lm.depth import Depth, Grown
from lm.growing.bert2bert import layers_of
from lm.growing.stacked import order_of
from lm.model import ModelConfig

Place = Literal["on_top", "between"]
SLOT = "pretrain.growth"
# Where no stages are given: of the layers, until so much of the steps
USUAL = ((0.25, 0.25), (0.5, 0.5))


class Stage(Config):
    """A part of the run in which the model is smaller than in the end."""

    layers: int = Field(gt=0)
    until: float = Field(gt=0, lt=1, description="part of all steps")


class StageStart(NamedTuple):
    """A stage of a run: its first step, and its layers."""

    step: int
    layers: int


def copied_from(small: int, large: int, place: Place) -> list[int]:
    """The layer of `small` that each of `large` layers is a copy of. on_top: the stack upon itself, 0 1 2 0 1 2, and of a rest
    its last layers, 0 1 2 1 2; between: each layer upon itself, 0 0 1 1 2 2."""
    return layers_of(small, large) if place == "on_top" else order_of(small, large, "interleaved")


def added_layers(sources: list[int]) -> list[int]:
    """The layers, of those copied from these, that are new: all but the first that is a copy of a layer."""
    return [layer for layer, source in enumerate(sources) if source in sources[:layer]]


def steps_in(part: float, steps: int) -> int:
    """Whole steps in a part of so many, which a float may miss by a hair."""
    return int(part * steps + 1e-9)


class Growth(Config):
    """A growth in stages. Blocks from the first on are the model of a stage; those beyond wait with their first weights."""

    grows: ClassVar[bool] = True
    stages: list[Stage] = Field(
        [],
        description="before the whole model; empty: a quarter of it for a quarter of the steps, half until half of them",
    )
    place: Place = Field("on_top", description="of new layers: on_top, 0 1 0 1; between, each behind its own, 0 0 1 1")

    @model_validator(mode="after")
    def _rising(self) -> "Growth":
        for one, other in pairwise(self.stages):
            if not (one.layers < other.layers and one.until < other.until):
                raise ValueError("stages: each must have more layers than the one before, and end later")
        return self

    def stages_of(self, layers: int) -> list[Stage]:
        """Stages of a model of so many layers. Raises ConfigError where it cannot be smaller, or one of them has as many."""
        if layers == 1:
            raise ConfigError(f"{SLOT}: a model of one layer has nothing to begin with: use whole")
        usual = {max(1, int(part * layers)): Stage(layers=max(1, int(part * layers)), until=end) for part, end in USUAL}
        found = self.stages or list(usual.values())
        if found[-1].layers >= layers:
            raise ConfigError(f"{SLOT}.stages: {found[-1].layers} layers, and the whole model has {layers}: give fewer")
        return found

    def stage_starts(self, layers: int, steps: int) -> list[StageStart]:
        """The stages of a run, the last of the whole model."""
        stages = self.stages_of(layers)
        begins = [0, *(steps_in(stage.until, steps) for stage in stages)]
        return [StageStart(*pair) for pair in zip(begins, [*(stage.layers for stage in stages), layers], strict=True)]

    def check(self, shape: ModelConfig) -> None:
        """Raises ConfigError for a model that cannot grow so: a layer must become one of the same parts."""
        begun = self.stage_starts(shape.layers, 1)
        for (_, small), (_, large) in pairwise(begun):
            for block, source in enumerate(self.sources(small, large)):
                if shape.layer(block) != shape.layer(source):
                    raise ConfigError(
                        f"{SLOT}: layer {block} would begin as layer {source}, whose mixer, feed-forward layer or "
                        "embeddings are others: take stages that the pattern divides"
                    )

    def grown(self, layers: int, step: int, steps: int) -> list[Grown]:
        """The growths before a step, one after the other; a stage without a step has its own."""
        found = []
        for (_, small), (begins, large) in pairwise(self.stage_starts(layers, steps)):
            if begins == step:
                new = frozenset(added_layers(copied_from(small, large, self.place)))
                found.append(Grown(tuple(self.sources(small, large)), new if self.begins_anew else frozenset()))
        return found

    @property
    def begins_anew(self) -> bool:
        """Whether new layers have no optimizer state yet."""
        return False

    def sources(self, small: int, large: int) -> list[int]:
        """The block that each of the larger model's was before the growth."""
        return copied_from(small, large, self.place)

    @abstractmethod
    def depth(self, layers: int, step: int, steps: int) -> Depth | None:
        """What a pass of the step goes through; None: the whole model."""
