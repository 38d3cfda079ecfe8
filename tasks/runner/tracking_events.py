"""What a stage says of its run to whoever records it, and what it is answered: values, and lines of JSON between processes."""

import json
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any


@dataclass(frozen=True)
class Begin:
    """Beginning of a stage's run. at: ms since 1970, as all times here; params: flattened; inputs: md5 of each dependency."""

    stage: str
    at: int
    tags: dict[str, str]
    params: dict[str, str]
    inputs: dict[str, str]


@dataclass(frozen=True)
class Point:
    """A point of each curve."""

    step: int
    values: dict[str, float]
    at: int


@dataclass(frozen=True)
class Samples:
    """What the model made of each prompt."""

    step: int
    texts: dict[str, str]


@dataclass(frozen=True)
class End:
    """The last that is said. status: FINISHED, FAILED or KILLED; metrics: final ones, by their whole names."""

    status: str
    metrics: dict[str, float]
    tags: dict[str, str]
    at: int


@dataclass(frozen=True)
class Made:
    """An answer: the store has made the run, under this number. store: its address, which may hold a password."""

    store: str
    run: str


@dataclass(frozen=True)
class Said:
    """An answer: a line for the stage's log."""

    line: str


@dataclass(frozen=True)
class Over:
    """The last answer: the end is recorded, or what went wrong was said."""


Event = Begin | Point | Samples | End
Answer = Made | Said | Over


def line_of(message: Event | Answer) -> bytes:
    """A line of JSON that holds the message; a number of any library becomes a float."""
    return json.dumps({"kind": type(message).__name__, **vars(message)}, default=float).encode() + b"\n"


def event_of(line: bytes) -> Event:
    """Event that line_of was given. Raises ValueError for half a line and for one of another program."""
    found: Event = _read(line, (Begin, Point, Samples, End))
    return found


def answer_of(line: bytes) -> Answer:
    """Answer that line_of was given. Raises ValueError for half a line and for one of another program."""
    found: Answer = _read(line, (Made, Said, Over))
    return found


def _read(line: bytes, kinds: tuple[type[Any], ...]) -> Any:
    body = json.loads(line)
    try:
        name = body.pop("kind")
        return next(kind for kind in kinds if kind.__name__ == name)(**body)
    except (AttributeError, KeyError, StopIteration, TypeError):
        raise ValueError(f"no message of ours: {line[:80]!r}") from None


def all_that_wait(events: SimpleQueue[Event]) -> list[Event]:
    """Events of the queue: the next one, waited for, and those that are there behind it. For its only reader."""
    return [events.get(), *(events.get() for _ in range(events.qsize()))]
