"""What a study asks: which methods of a room, tuned over which ranges, at which budget, measured how, and beside which
baseline."""

import json
import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from flows.arena.defaults import defaults
from flows.arena.statistics.ratios import MIN_PAIRS
from lm.config import Config, ConfigError, mistakes
from tasks.core.yaml import YAMLError, read_yaml

METHOD = "method"  # in an arm: the value of the study's room
Range = tuple[float, float]


class Budget(Config):
    """What every run of a study may spend; one of these.

    tokens, flop: of training, forward and backward, with the passes of teachers. seconds: of training on this machine. bytes:
    of weights on disk; no run is cut to it, an arm beyond it is said to be.
    """

    tokens: int | None = Field(None, gt=0)
    flop: float | None = Field(None, gt=0)
    seconds: float | None = Field(None, gt=0)
    bytes: int | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _one(self) -> "Budget":
        given = [name for name, value in self if value is not None]
        if len(given) != 1:
            raise ValueError(f"one of tokens, flop, seconds, bytes; these are {', '.join(given) or 'none'}")
        return self

    @property
    def kind(self) -> str:
        """Name of what is spent."""
        return next(name for name, value in self if value is not None)

    @property
    def amount(self) -> float:
        """How much of it."""
        return float(getattr(self, self.kind))


class Study(Config):
    """A race. arms: by name, the parameters that each sets; `method` is the value of the room. tune: parameter -> (low,
    high), tried on a log scale, for every arm that tune_of does not name. measure: a metric of a stage, as in
    evaluate@pretrain.bits_per_byte."""

    room: str = Field(min_length=1, description="key of params.yaml that an arm chooses, as in pretrain.optimizer")
    baseline: str
    arms: dict[str, dict[str, Any]] = Field(min_length=2)
    tune: dict[str, Range] = {}
    tune_of: dict[str, dict[str, Range]] = {}
    trials: int = Field(6, gt=0, description="of each arm, the baseline among them")
    seeds: int = Field(5, ge=MIN_PAIRS, description="paired runs of every arm at its best; fewer pairs have no verdict")
    looks: int = Field(2, gt=0, description="how often it is asked whether a case is clear, the last time included")
    # Which rate a search of six trials ends with is noise that seeds do not show: at 95% the same method under two names
    # differed in 5 to 11% of 200 races, at 98% in 3 to 6%
    level: float = Field(0.98, gt=0.5, lt=1, description="of the intervals, whatever the number of looks")
    budget: Budget
    measure: str = Field(default_factory=lambda: defaults().measure)
    better: Literal["lower", "higher"] = "lower"
    target: float | None = Field(None, description="of the smoothed training curve, in bits per byte")
    preset: str = "arena"
    set: list[str] = Field([], description="more assignments, for every arm, as in pretrain.clip=1.0")
    timed: bool = Field(False, description="seconds count, so that no run of another study stands for one of this")
    control: str | None = Field(None, description="an arm that a winner has to beat too")
    seed: int = Field(0, ge=0, description="of the search; runs take the seeds that follow from it")

    @model_validator(mode="after")
    def _names(self) -> "Study":
        for what, name in (("baseline", self.baseline), ("control", self.control)):
            if name is not None and name not in self.arms:
                raise ValueError(f"{what}: no arm {name!r} (arms: {', '.join(self.arms)})")
        for name, ranges in [("tune", self.tune), *self.tune_of.items()]:
            if name != "tune" and name not in self.arms:
                raise ValueError(f"tune_of: no arm {name!r} (arms: {', '.join(self.arms)})")
            for key, (low, high) in ranges.items():
                if not 0 < low < high < math.inf:
                    raise ValueError(f"{name}: {key}: {low:g} to {high:g} is no range above 0")
        if "." not in self.measure or not all(self.stage_and_metric):
            raise ValueError(f"measure: {self.measure!r} must read stage.metric, as in evaluate@pretrain.bits_per_byte")
        return self

    @property
    def stage_and_metric(self) -> tuple[str, str]:
        """The stage that is run to, and the name of its metric."""
        stage, _, metric = self.measure.partition(".")
        return stage, metric

    def ranges(self, arm: str) -> dict[str, Range]:
        """What is tuned of an arm."""
        return self.tune_of.get(arm, self.tune)

    def own(self, arm: str) -> dict[str, Any]:
        """The parameters that an arm sets itself, by their keys."""
        return {self.room if key == METHOD else key: value for key, value in self.arms[arm].items()}

    def assignments(self, arm: str, tuned: dict[str, float], seed: int) -> list[str]:
        """The parameters of one run, in the form of SET: those of all arms, the arm's, what was tuned, the seed."""
        given = {**self.own(arm), **tuned, "seed": seed}
        return [*self.set, *(f"{key}={json.dumps(value)}" for key, value in given.items())]


def read_study(path: Path) -> Study:
    """The study of a file. Raises ConfigError, one line a mistake, that names the file and the key."""
    try:
        return Study.model_validate(read_yaml(path), strict=False)
    except FileNotFoundError:
        there = ", ".join(sorted(str(each) for each in path.parent.glob("*.yaml"))) or "none"
        raise ConfigError(f"STUDY: {path}: no such file (there are: {there})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"STUDY: {path}: no file of a study: {getattr(error, 'strerror', None) or 'no text'}"
        ) from None
    except YAMLError as error:
        raise ConfigError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise ConfigError(f"{path}: {mistakes(error)}") from None
