"""Sources mixed by weight, with other weights in each phase of the run.

A phase without weights takes the sources as they are. So domain upsampling at the end (Blakeney et al. 2024, arXiv:2406.03476:
the last 10 to 20% of the run) is two phases: a natural one, then one with the weights of the small good sources raised.
Weights are shares of tokens, met to one document of each source. A source is gone through in random order and again when it is
used up; a phase goes on where the one before it stopped.
"""

import math
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from lm.config import Config
from tasks.core.config import ConfigError
from tasks.curriculum.plan import DocumentOrder, Documents
from tasks.curriculum.stream import interleave, rounds


class Phase(Config):
    share: float = Field(gt=0, le=1, description="of the run's tokens")
    weights: dict[str, float] | None = Field(None, description="of each source, any scale; none: as the tokens are")

    @model_validator(mode="after")
    def _positive(self) -> "Phase":
        if self.weights is not None and (min(self.weights.values(), default=0) < 0 or not sum(self.weights.values())):
            raise ValueError("weights must not be negative, and one must be above 0")
        return self


class Mixture(Config):
    name: Literal["mixture"] = "mixture"
    phases: list[Phase] = Field(min_length=1)

    @model_validator(mode="after")
    def _whole(self) -> "Mixture":
        total = math.fsum(phase.share for phase in self.phases)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of the phases must add up to 1, not {total:g}")
        return self

    def shares(self, documents: Documents) -> np.ndarray:
        """PS shares of the sources in each phase; rows add up to 1. Raises ConfigError for a source without documents."""
        tokens = np.bincount(documents.source, documents.length, len(documents.sources))
        rows = []
        for number, phase in enumerate(self.phases):
            weights = dict(zip(documents.sources, tokens, strict=True)) if phase.weights is None else phase.weights
            there = [name for name, count in zip(documents.sources, tokens, strict=True) if count]
            for name, weight in weights.items():
                if weight and name not in there:
                    raise ConfigError(
                        f"curriculum.order.phases.{number}.weights: no documents of source {name!r} (there are: "
                        f"{', '.join(there)})"
                    )
            row = np.array([weights.get(name, 0.0) for name in documents.sources], dtype=np.float64)
            rows.append(row / math.fsum(row))
        return np.array(rows)

    def __call__(self, documents: Documents, tokens: int, seed: int) -> DocumentOrder:
        shares = self.shares(documents)
        ends = [round(tokens * math.fsum(p.share for p in self.phases[: n + 1])) for n in range(len(self.phases))]
        sizes = np.diff([0, *ends[:-1], tokens])
        until = np.ceil(np.cumsum(shares * sizes[:, None], axis=0)).astype(np.int64)  # PS tokens of each source so far
        lots: list[list[np.ndarray]] = [[] for _ in self.phases]
        for source in np.flatnonzero(until[-1]):
            members = np.flatnonzero(documents.source == source)
            drawn = rounds(members, documents.length, int(until[-1, source]), seed, 1 + int(source))
            edges = np.searchsorted(np.cumsum(documents.length[drawn]), until[:, source]) + (until[:, source] > 0)
            for lot, first, end in zip(lots, [0, *edges[:-1]], edges, strict=True):
                lot.append(drawn[first:end])
        found = [interleave(lot, seed, number + 1) for number, lot in enumerate(lots)]
        return DocumentOrder(np.concatenate(found), np.repeat(np.arange(len(found)), [len(part) for part in found]))
