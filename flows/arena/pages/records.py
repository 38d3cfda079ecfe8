"""What the pages are made of: result.json of a study and the rows of claims.jsonl, read from text into frozen values.

Keys that no page shows are let pass. Every text is one line without control characters: no name breaks a table or a terminal.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, ValidationError

from lm.config import Config, mistakes
from tasks.report.words import truncate

LONGEST = 1000  # characters of a text that are shown; a traceback is longer


def one_line(text: str) -> str:
    """The text in one line: runs of white space are a space, control characters U+FFFD, at most LONGEST characters."""
    return " ".join(truncate(text, LONGEST).split())


def whole(ends: object) -> object:
    """An interval as a tuple, None where an end is missing, as one pair of seeds leaves it."""
    if not isinstance(ends, list | tuple):
        return ends
    return None if None in ends else tuple(ends)


Text = Annotated[str, AfterValidator(one_line)]
Interval = Annotated[tuple[float, float] | None, BeforeValidator(whole)]


class Record(Config):
    """A part of a file; numbers are finite or None."""

    model_config = ConfigDict(extra="ignore")


class Cost(Record):
    """Seconds of the study's machine and FLOP."""

    seconds: float
    flop: float


class Measure(Record):
    """What runs are judged by: a metric of a stage, its unit, and which direction is better."""

    name: Text
    unit: Text = ""
    better: Literal["lower", "higher"] = "lower"
    stage: Text = ""


class Trial(Record):
    """One run of an arm's search: the tuned parameters by dotted key, and the measure, None where it diverged."""

    number: int
    params: dict[Text, Any]
    value: float | None
    seconds: float
    flop: float
    diverged: bool = False


class ToTarget(Record):
    """What a run had spent when the measure reached the target."""

    tokens: float | None = None
    flop: float | None = None
    seconds: float | None = None


class Run(Record):
    """One run of an arm at its best parameters.

    curve: (tokens, seconds, training bits per byte) a point; to_target: None where the target was not reached; why: how it
    diverged; grows: whether its model did; flops: up to each point of the curve of one that does.
    """

    seed: int
    value: float | None
    seconds: float
    flop: float
    tokens: float | None = None
    diverged: bool = False
    curve: tuple[tuple[float, float | None, float | None], ...] = ()
    to_target: ToTarget | None = None
    why: Text = ""
    grows: bool = False
    flops: tuple[float, ...] = ()


class Arm(Record):
    """One method with its search and its runs. tune: (low, high) of each searched parameter, where the study left it."""

    name: Text
    params: dict[str, Any] = {}
    trials: tuple[Trial, ...] = ()
    runs: tuple[Run, ...] = ()
    search: Cost
    warnings: tuple[Text, ...] = ()
    tune: dict[Text, tuple[float, float]] = {}


class Difference(Record):
    """The mean of arm - baseline over pairs, with both intervals: of values that are not all above 0 there is no ratio."""

    mean: float | None
    t: Interval = None
    bootstrap: Interval = None


class Estimate(Record):
    """The ratio of two things over pairs of a seed, with both intervals; in its place the difference where it has none."""

    ratio: float | None
    t: Interval = None
    bootstrap: Interval = None
    difference: Difference | None = None
    pairs: int


class Comparison(Estimate):
    """An arm against the baseline over paired seeds: ratio = arm / baseline of a quantity, with both intervals at `level`."""

    arm: Text
    baseline: Text
    quantity: Text
    level: float = 0.95
    stopped_early: bool = False
    verdict: Text
    why: Text = ""


class Power(Record):
    """What so many pairs tell apart with this probability: the ratio nearest to 1, and the seeds that a gain of 1% takes."""

    power: float
    ratio: float
    seeds_for_1_percent: int


class Study(Record):
    """A whole result.json. command: what runs it again; parameters: learned numbers of the model; tokens, steps: of a run;
    noise: the baseline against itself, a ratio that no method has made; power: what the seeds can tell; fit: a law over the
    runs, as flows/arena/fitted.py reports it, where one was asked for.
    """

    name: Text
    room: Text
    baseline: Text
    control: Text | None = None
    measure: Measure
    budget: dict[Text, float]
    target: float | None = None
    seeds: int
    trials: int
    threads: int | None = None
    machine: Text = ""
    commit: Text = ""
    date: Text = ""
    command: Text = ""
    parameters: float | None = None
    steps: float | None = None
    tokens: float | None = None
    arms: tuple[Arm, ...]
    comparisons: tuple[Comparison, ...] = ()
    noise: Estimate | None = None
    power: Power | None = None
    fit: dict[str, Any] = {}
    warnings: tuple[Text, ...] = ()


class Claim(Record):
    """A row of claims.jsonl: what a paper says of a method, and what a study of ours found.

    paper: an id of methods.tsv; source: authors, year, number.
    """

    method: Text
    room: Text
    paper: Text | None = None
    source: Text = ""
    headline: Text = ""
    study: Text | None = None
    control: Text | None = None
    ratio: float | None
    t: Interval = None
    bootstrap: Interval = None
    quantity: Text = "value"
    parameters: float | None = None
    tokens: float | None = None
    seeds: int | None = None
    seconds: float | None = None
    flop: float | None = None
    verdict: Text
    why: Text = ""
    commit: Text = ""
    machine: Text = ""
    date: Text = ""


Kind = TypeVar("Kind", bound=Record)


def read_study(text: str) -> Study:
    """The value of result.json. Raises ValueError with every mistake in one line."""
    return _read(Study, text, "result.json")


def read_claims(text: str) -> list[Claim]:
    """The rows of claims.jsonl by room, method, study, quantity and control; rows alike in these keep their order.

    Raises ValueError that names the line.
    """
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    claims = [_read(Claim, line, f"claims.jsonl:{number}") for number, line in lines]
    return sorted(claims, key=lambda c: (c.room, c.method, c.study or "", c.quantity, c.control or ""))


def _read(kind: type[Kind], text: str, where: str) -> Kind:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(f"{where}: {mistakes(error)}") from None
