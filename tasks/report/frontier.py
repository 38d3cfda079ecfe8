"""What a model costs beside what it can do: size, bits a weight, differences to the one it began with, speed and memory; and
which models are worth their bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tasks.report.paired import ModelComparison
from tasks.report.read import Stage


@dataclass(frozen=True)
class FrontierPoint:
    """A model. bits: of a weight, stored; tokens_per_second and memory (bytes): of its evaluation, facts of this machine;
    dominated: whether another is no larger and answers no less, and is not the same in both."""

    model: str
    bytes: float
    bits: float | None
    accuracy: float
    beside: ModelComparison | None
    tokens_per_second: float | None
    memory: float | None
    dominated: bool

    def row(self) -> dict[str, Any]:
        """For JSON."""
        return {"bits_per_weight": self.bits, "dominated": self.dominated}


def frontier(stages: Sequence[Stage], beside: dict[str, ModelComparison]) -> list[FrontierPoint]:
    """Each model whose evaluation is current, in their order."""
    made = {stage.name: stage.metrics for stage in stages}
    known = [s for s in stages if s.model and s.current and {"size_bytes", "accuracy"} <= s.metrics.keys()]
    places = [(s.metrics["size_bytes"], s.metrics["accuracy"]) for s in known]
    return [
        FrontierPoint(
            s.model or "",
            own[0],
            bits_of(made.get(s.model or "", {}), s.metrics),
            own[1],
            beside.get(s.model or ""),
            s.timings.get("tokens_per_second"),
            s.timings.get("peak_memory_bytes"),
            is_dominated(own, places),
        )
        for s, own in zip(known, places, strict=True)
    ]


def bits_of(made: dict[str, float], found: dict[str, float]) -> float | None:
    """Bits of a weight as its stage counts them, else those that its file has; None where nothing is known."""
    if "bits_per_weight" in made:
        return made["bits_per_weight"]
    return 8 * found["size_bytes"] / found["parameters"] if found.get("parameters") else None


def is_dominated(own: tuple[float, float], places: Sequence[tuple[float, float]]) -> bool:
    """Whether another of these (bytes, accuracy) is no larger and no less accurate, and differs."""
    return any(other != own and other[0] <= own[0] and other[1] >= own[1] for other in places)
