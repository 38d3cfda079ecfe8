"""Ours beside its peers: an equality gate first, then interleaved pairs; a ratio above 1 means that ours is ahead."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Metric:
    """What is measured: a cost such as seconds, or a rate (`higher_is_better`) such as MB/s."""

    name: str
    unit: str
    higher_is_better: bool = False

    def ratio(self, ours: float, peer: float) -> float:
        """peer / ours of a cost; of a rate the inverse, which is peer / ours of the cost behind it."""
        return ours / peer if self.higher_is_better else peer / ours


@dataclass(frozen=True)
class Sample:
    """One run of an arm: a value a metric, and the answer by which the gate compares arms."""

    values: dict[str, float]
    answer: Any = None


@dataclass(frozen=True)
class Arm:
    """One implementation under its name; `measure` does the whole work once."""

    name: str
    measure: Callable[[], Sample]


def equal(ours: Any, peer: Any) -> str:
    """The default gate: nothing when the answers are the same, else both of them, cut to 80 characters."""
    return "" if ours == peer else f"ours {ours!r:.80}, peer {peer!r:.80}"


# What a row of a bound has in place of a gate's word
BOUND = "none (a bound)"


@dataclass(frozen=True)
class Contest:
    """One measurement. Without peers it is a plain figure, such as a roof of the machine.

    gate(answer of ours, answer of the peer) says how they differ, or "" when they agree.
    bound: the peers do other work, with which ours could not be equal, and say only how fast something like it can be done:
    no gate is asked, and the rows say so.
    added: also report ours - peer, for work that comes on top of the peer's.
    """

    ours: Arm
    metrics: tuple[Metric, ...]
    peers: tuple[Arm, ...] = ()
    gate: Callable[[Any, Any], str] = equal
    pairs: int = 5
    threads: int | None = None
    packages: tuple[str, ...] = ()
    added: bool = False
    bound: bool = False


@dataclass(frozen=True)
class Result:
    """A figure with the ratios of its pairs; `value` is a median, None when the gate failed."""

    impl: str
    peer: str | None
    gate: str
    metric: str
    unit: str
    value: float | None
    ratios: list[float] = field(default_factory=list)
    runs: int = 0


def run_contest(contest: Contest) -> Iterator[Result]:
    """Run the contest. The run that feeds the gate also warms each arm up and is not measured. Raises ValueError for arms
    without answers, which a gate would always pass."""
    if not contest.peers:
        contest.ours.measure()
        samples = [contest.ours.measure() for _ in range(contest.pairs)]
        for metric in contest.metrics:
            yield _figure(contest.ours.name, None, "none", metric, [s.values[metric.name] for s in samples])
    for peer in contest.peers:
        answers = contest.ours.measure().answer, peer.measure().answer
        if not contest.bound and answers == (None, None):
            raise ValueError(f"{contest.ours.name}: no answer to compare with {peer.name}'s: no gate could fail")
        difference = "" if contest.bound else contest.gate(*answers)
        gate = BOUND if contest.bound else "passed"
        if difference:
            for metric in contest.metrics:
                yield Result(contest.ours.name, peer.name, f"failed: {difference}", metric.name, metric.unit, None)
            continue
        pairs = [_pair(contest.ours, peer, ours_first=number % 2 == 0) for number in range(contest.pairs)]
        for metric in contest.metrics:
            ours, theirs = ([sample.values[metric.name] for sample in arm] for arm in zip(*pairs, strict=True))
            ratios = [metric.ratio(a, b) for a, b in zip(ours, theirs, strict=True)]
            yield _figure(contest.ours.name, peer.name, gate, metric, ours, ratios)
            yield _figure(peer.name, None, gate, metric, theirs)
            if contest.added:
                more = [a - b for a, b in zip(ours, theirs, strict=True)]
                yield _figure(contest.ours.name, peer.name, gate, Metric(f"added_{metric.name}", metric.unit), more)


def _pair(ours: Arm, peer: Arm, ours_first: bool) -> tuple[Sample, Sample]:
    """A sample of each, one right after the other; who goes first alternates, so that what the first leaves behind (a warm disk
    cache, a hot processor) helps and harms both alike."""
    if ours_first:
        return ours.measure(), peer.measure()
    theirs = peer.measure()
    return ours.measure(), theirs


def _figure(
    impl: str, peer: str | None, gate: str, metric: Metric, values: list[float], ratios: list[float] | None = None
) -> Result:
    return Result(impl, peer, gate, metric.name, metric.unit, median(values), ratios or [], len(values))
