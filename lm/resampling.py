"""How far other documents, or other problems, would lie: sums of what is drawn from them with replacement (Efron 1979; Davison
and Hinkley 1997, chapters 2.4 and 3.2)."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

RESAMPLES, SEED = 2000, 0
DRAWN = 1 << 18  # rows that are drawn at once: 2 MB of places


def resampled_sums(strata: Sequence[np.ndarray]) -> np.ndarray:
    """sums_RC of the columns over RESAMPLES draws: of each stratum (N, C) as many rows as it has, with replacement. The draws
    are always the same ones for strata of the same lengths, so that columns of one call are paired, and calls are, too."""
    generator = np.random.Generator(np.random.Philox(key=SEED))
    drawn_RC = np.zeros((RESAMPLES, strata[0].shape[1] if strata else 0))
    for rows_NC in strata:
        at_once = max(1, DRAWN // len(rows_NC))
        for first in range(0, RESAMPLES, at_once):
            some = drawn_RC[first : first + at_once]
            some += rows_NC[generator.integers(len(rows_NC), size=(len(some), len(rows_NC)))].sum(1)
    return drawn_RC


def strata(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> list[np.ndarray]:
    """The columns (N, C) of the documents of each source, whatever the order of the rows; `id`, `source` and `bytes` say of
    each which it is. A source of one document, which does not say how far another would lie from it, goes with others that have
    one; that alone, with the source of fewest. What has no byte is left out."""
    found: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["id"]):
        if row["bytes"]:
            found[row["source"]].append(tuple(row[column] for column in columns))
    every = [np.array(documents) for _, documents in sorted(found.items())]
    every.sort(key=len)  # stable, so by name where they are as many
    alone = sum(len(documents_N) == 1 for documents_N in every)
    together = 2 if alone == 1 else alone
    return [np.concatenate(every[:together]), *every[together:]] if alone else every
