"""When, with which code and on which machine the runs of a study were made."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from json import loads
from pathlib import Path

from flows.arena.outcomes import Outcome
from flows.arena.race import RaceResult


@dataclass(frozen=True)
class Stamp:
    """What the newest of some runs says; "" where that was not written down."""

    date: str = ""
    commit: str = ""
    machine: str = ""


def stamp_of(raced: RaceResult, path: Path) -> Stamp:
    """The stamp of a study's runs. path: of the result that it left before, which says it of runs that do not say it
    themselves."""
    newest = max(outcomes(raced), key=lambda found: found.made, default=None)
    if newest is not None and newest.made:
        return Stamp(datetime.fromtimestamp(newest.made, UTC).date().isoformat(), newest.commit, newest.machine)
    try:
        before = loads(path.read_text(encoding="utf-8"))
        return Stamp(*(str(before[name]) for name in ("date", "commit", "machine")))
    except (FileNotFoundError, ValueError, KeyError):
        return Stamp()


def outcomes(raced: RaceResult) -> Iterable[Outcome]:
    """All that the study asked for."""
    for arm in [*raced.arms.values(), raced.again]:
        yield from arm.trials
        yield from arm.runs.values()


def in_words(hardware: dict[str, str]) -> str:
    """A machine in words, such as `Intel Xeon, AVX512, 2 threads`."""
    return ", ".join(hardware[name] for name in ("gpu", "cpu", "instructions") if hardware.get(name))
