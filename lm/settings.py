"""Settings: environment variables that say where and how fast something runs, and never what it makes.

Each is read where it is used, so what a process is started with is what it does. Here are those that a stage's own code reads,
in tasks/runner/settings.py those of what starts and records stages, in flows/settings.py all others and the list of all.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from lm.config import ConfigError

T = TypeVar("T")
D = TypeVar("D")


@dataclass(frozen=True)
class Setting(Generic[T]):
    """One environment variable. An empty one counts as not set.

    default: what holds where it is not set; unset: that in words. allowed: what it may be, in words. parse: the value of a
    text; raises ValueError for what is not allowed. reader: who reads it.
    """

    name: str
    default: T
    unset: str
    allowed: str
    meaning: str
    parse: Callable[[str], T]
    reader: str = "stage"

    def read(self, environment: Mapping[str, str] | None = None) -> T:
        """The value that holds. Raises ConfigError, in a line, for one that is not allowed."""
        text = (os.environ if environment is None else environment).get(self.name, "")
        try:
            return self.parse(text) if text else self.default
        except ValueError:
            raise ConfigError(f"{self.name}: must be {self.allowed} (got {text!r})") from None

    def is_given(self) -> bool:
        """True if it is set, and not to nothing."""
        return bool(os.environ.get(self.name))


def integer(
    name: str, default: D, least: int, meaning: str, *, of: str = "", unset: str = "", reader: str = "stage"
) -> Setting[int | D]:
    """A whole number, of MiB or so, of at least `least`."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and int(text) >= least):
            raise ValueError(text)
        return int(text)

    allowed = f"a whole number of {of}, at least {least}" if of else f"a whole number of at least {least}"
    return Setting(name, default, unset or str(default), allowed, meaning, parse, reader)


def seconds(name: str, default: float, meaning: str, *, least: float = 0.0, reader: str = "stage") -> Setting[float]:
    """A number of seconds of at least `least`, which may be a fraction."""

    def parse(text: str) -> float:
        if not least <= (value := float(text)) < float("inf"):
            raise ValueError(text)
        return value

    return Setting(name, default, f"{default:g}", f"a number of seconds, at least {least:g}", meaning, parse, reader)


def one_of(name: str, default: str, choices: tuple[str, ...], meaning: str, *, reader: str = "stage") -> Setting[str]:
    """One of some words."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(text)
        return text

    words = choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    return Setting(name, default, default or "not set", words, meaning, parse, reader)


def text(
    name: str, default: D, allowed: str, meaning: str, *, unset: str = "", reader: str = "stage"
) -> Setting[str | D]:
    """Any text; allowed: what it is meant to be."""
    return Setting(name, default, unset or str(default or "not set"), allowed, meaning, str, reader)


THREADS = integer(
    "TOKENMILL_THREADS", None, 1, "threads that a process computes with; they change the last bits of what is trained",
    unset="the processors it may use",
)  # fmt: skip
MEMORY = integer(
    "TOKENMILL_MEMORY", None, 1, "memory that a data stage may fill; what is larger goes to disk", of="MiB",
    unset="half of what the machine, its container and `ulimit` leave",
)  # fmt: skip
SHARD_WORKERS = integer(
    "TOKENMILL_SHARD_WORKERS", None, 1, "processes that share the shards of a data stage", unset="a processor each"
)
RUNNER = text(
    "TOKENMILL_RUNNER", "", "module:function", "who works on shards, such as `flows.shards:on_dask`",
    unset="processes of this machine",
)  # fmt: skip
KINDS = ("exact", "ddp", "fsdp", "zero1", "zero2", "zero3")  # of lm/training/parallel
PARALLEL = one_of(
    "TOKENMILL_PARALLEL", "exact", KINDS,
    "how a training run is spread over ranks; every one but `exact` changes the last bits",
)  # fmt: skip
OFFLOAD = one_of(
    "TOKENMILL_OFFLOAD", "0", ("0", "1"), "1: what fsdp and the zeros cut up is kept in the memory of the host"
)
POSITIONS = integer(
    "TOKENMILL_POSITIONS", None, 0, "positions that a backward pass holds at once, 0: the least; recorded with the run",
    of="positions", unset="as many as the memory holds",
)  # fmt: skip
CHECKPOINT_SECONDS = seconds(
    "TOKENMILL_CHECKPOINT_SECONDS", 20.0, "seconds between two checkpoints of a training stage"
)
