"""What a study takes where it says nothing: defaults.yaml, beside this file."""

from collections.abc import Container
from functools import cache
from pathlib import Path
from typing import Literal

from lm.config import Config
from tasks.core.yaml import read_yaml


class Measured(Config):
    """How methods of these rooms, or of every room of these stages, are measured. set: what leads there. small: at which size,
    where no preset is asked for, with `spent` tokens."""

    rooms: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    measure: str
    set: tuple[str, ...] = ()
    small: tuple[str, ...] = ()
    spent: int | None = None


class Defaults(Config):
    """measure: a metric of a stage. trained: the stage whose budget is spent, by the parameter `tokens`. rate: of a stage that
    trains, tuned for methods without one of their own. data: stages whose parameters decide what is trained on. kept: keys
    of a method that every arm has from the preset. spent: tokens.
    better: the direction of metrics. others: stages that `measure` does not depend on, and rooms of these that act on nothing
    that their stage is measured by; the first that has a room counts. behind: of a stage that is in none of these, and that
    `measure` does not depend on."""

    measure: str
    trained: str
    tokens: str
    rate: str
    data: tuple[str, ...]
    kept: tuple[str, ...]
    spent: int
    better: dict[str, Literal["lower", "higher"]]
    others: tuple[Measured, ...]
    behind: Measured

    def measured(self, room: str, reached: Container[str]) -> Measured:
        """How methods of a room are measured. reached: the stages that `measure` depends on."""
        stage = room.partition(".")[0]
        known = (each for each in self.others if room in each.rooms or stage in each.stages)
        found = next(known, Measured(measure=self.measure) if stage in reached else self.behind)
        sets = tuple(each.replace("{stage}", stage) for each in found.set)
        return found.model_copy(update={"measure": found.measure.format(stage=stage), "set": sets})

    def direction(self, metric: str) -> Literal["lower", "higher"] | None:
        """The better direction of a metric, None where that is not known."""
        return next((way for name, way in self.better.items() if f"{metric}_".startswith(f"{name}_")), None)


@cache
def defaults() -> Defaults:
    """The values of defaults.yaml."""
    return Defaults.model_validate(read_yaml(Path(__file__).with_suffix(".yaml")), strict=False)
