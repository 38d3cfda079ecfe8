"""The outcomes of a study's runs, a line each of runs.jsonl."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from lm.files import sync
from tasks.runner.json_lines import lines_of


@dataclass(frozen=True)
class Outcome:
    """What came of a run. value: the measure, None where training diverged, and `why` says how.

    seconds, flop, tokens: of training, forward and backward, with the passes of models that read and do not learn. parameters,
    layers: of the trained model. copies: numbers that a token moves through memory in its products. size_bytes: of the
    measured model on disk, 0 where its stage does not say. data: digest of the data that training followed. curve: [tokens,
    loss or bits per byte] of training, a point a step. rates: the learning rate at its highest and at the last step.
    decays_from: tokens after which it was below its highest for good, 0 where it never was. tokens_a_step: in the mean. grows:
    whether the model did, so that FLOP and seconds are not even over tokens. flops: up to each point of the curve, of a model
    that grows or is taught in a part of the run alone; empty: they are even over tokens. study: for which it was run, "" where
    that was not written down; others that asked for the same have it from there. made: when it ended, in seconds since 1970, 0
    where that was not written down; commit, machine: whose code it had, and where.
    """

    digest: str
    arm: str
    tuned: dict[str, float]
    seed: int
    value: float | None
    seconds: float = 0.0
    flop: float = 0.0
    tokens: int = 0
    parameters: int = 0
    layers: int = 0
    tokens_a_step: int = 0
    copies: float = 0.0
    size_bytes: int = 0
    data: str = ""
    curve: tuple[tuple[float, float], ...] = ()
    rates: tuple[float, float] = (0.0, 0.0)
    decays_from: float = 0.0
    why: str = ""
    grows: bool = False
    flops: tuple[float, ...] = ()
    study: str = ""
    made: float = 0.0
    commit: str = ""
    machine: str = ""


class Outcomes:
    """The outcomes by digest, in a file that a kill leaves whole."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "runs.jsonl"
        self.known = {found.digest: found for found in _read(self._path)}

    def add(self, outcome: Outcome) -> None:
        """Write an outcome down; it is on the disk when this returns. Called by one thread at a time."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # on a line of its own, even behind one that a kill cut short
        text = "\n" + json.dumps(asdict(outcome), sort_keys=True, allow_nan=False) + "\n"
        with self._path.open("a", encoding="utf-8") as file:
            file.write(text)
        sync(self._path)
        self.known[outcome.digest] = outcome


def _read(path: Path) -> Iterator[Outcome]:
    """The outcomes of a file. A line that is not whole is none."""
    for line in lines_of(path.read_text(encoding="utf-8")) if path.exists() else ():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        curve = tuple((point[0], point[1]) for point in values["curve"])
        flops = tuple(values.get("flops", ()))
        yield Outcome(**{**values, "curve": curve, "rates": tuple(values["rates"]), "flops": flops})
