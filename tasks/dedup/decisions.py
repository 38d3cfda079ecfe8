"""What the slots of the stage have decided so far, of every row of the table.

Letters: N rows of the table, K cuts.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tasks.core.tables import count_rows
from tasks.dedup.documents import NO_CUTS, DedupResult


def merged_cuts(cuts_K3: np.ndarray) -> np.ndarray:
    """(row, begin, end) sorted, with those that overlap or touch made one."""
    if not len(cuts_K3):
        return NO_CUTS
    row, begin, end = cuts_K3[np.lexsort((cuts_K3[:, 1], cuts_K3[:, 0]))].T
    line = int(end.max()) + 2  # the rows end to end on one line, so that no two of them touch
    reached = np.maximum.accumulate(row * line + end)
    first = np.concatenate(([True], (row * line + begin)[1:] > reached[:-1]))
    last = np.append(np.flatnonzero(first)[1:], len(row)) - 1
    return np.column_stack((row[first], begin[first], reached[last] - row[last] * line))


@dataclass
class Decisions:
    """keep_N: which rows stay. cluster_N: the row of the first document of each one's cluster, over all slots.
    reasons, why_N: why a row goes, as (slot, kind of reason) and its number; -1 where it stays. cuts_K3: as in Found."""

    keep_N: np.ndarray
    cluster_N: np.ndarray
    why_N: np.ndarray
    reasons: list[tuple[str, str]] = field(default_factory=list)
    cuts_K3: np.ndarray = field(default_factory=lambda: NO_CUTS)

    @classmethod
    def for_table(cls, table: Path) -> "Decisions":
        """Decisions on the rows of a table before any is made: all stay."""
        rows = count_rows(table)
        return cls(np.ones(rows, dtype=bool), np.arange(rows), np.full(rows, -1, dtype=np.int8))

    def add(self, slot: str, reason: str, found: DedupResult) -> None:
        """What a method found among the rows that were left; a cluster that falls into another goes there with its members."""
        gone = self.keep_N & ~found.keep_N
        self.why_N[gone] = len(self.reasons)
        self.reasons.append((slot, reason))
        self.keep_N = self.keep_N & found.keep_N
        self.cluster_N = found.first_N[self.cluster_N]
        self.cuts_K3 = merged_cuts(np.concatenate((self.cuts_K3, found.cuts_K3)))

    def save(self, folder: Path) -> None:
        """Write the arrays as files that workers map into memory."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("keep_N", "cluster_N", "why_N", "cuts_K3"):
            np.save(folder / f"{name}.npy", getattr(self, name))

    @classmethod
    def load(cls, folder: Path, reasons: list[tuple[str, str]]) -> "Decisions":
        names = ("keep_N", "cluster_N", "why_N", "cuts_K3")
        keep, cluster, why, cuts = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in names)
        return cls(keep, cluster, why, reasons, cuts)
