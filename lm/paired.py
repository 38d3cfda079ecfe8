"""Two models on the same problems and the same documents: the mean of the differences, with a paired bootstrap interval.

Models that answer the same problems share what is hard about them, which an interval of each by itself counts twice. Letters: N
problems or documents, R resamples.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from lm.resampling import RESAMPLES, SEED, resampled_sums, strata

LEVEL = 0.95
# Below it documents tell too little: the quantile of t, and with it the tail, is then off by more than 0.2%
FEWEST = 10


@dataclass(frozen=True)
class Difference:
    """One model less the other, with the ends of its 95% interval, over so many problems or documents."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def includes_zero(self) -> bool:
        """Whether the interval holds 0: no difference was found."""
        return self.low <= 0 <= self.high

    def row(self) -> dict[str, Any]:
        """For JSON, with what it comes to in words: higher, lower or no difference."""
        said = "no difference" if self.includes_zero else "higher" if self.low > 0 else "lower"
        return {**asdict(self), "verdict": said}


def score_difference(differences_N: Sequence[float]) -> Difference | None:
    """The mean of the differences of scores in [0, 1], a problem each, and the percentiles of the mean over resampled problems;
    None without a problem.

    Two more stand among those that are resampled: one that only the one model answers, one that only the other does, as Agresti
    and Min 2005 (doi:10.1002/sim.1781) add a half to each of the four counts of a pair of shares. Without them four problems
    that only one model answers were a difference, which comes by chance in one case of eight; with them it takes six, as in the
    exact test of McNemar. Differs: a whole problem each way rather than halves.
    """
    given_N = np.asarray(differences_N, float)
    if not len(given_N):
        return None
    # what is drawn is how often each value comes: N independent draws of few values are one multinomial draw
    values_K, counts_K = np.unique(np.append(given_N, [1.0, -1.0]), return_counts=True)
    total = int(counts_K.sum())
    generator = np.random.Generator(np.random.Philox(key=SEED))
    # many resamples, which cost little here: an end that falls on a whole problem must not fall beside it by chance
    means_R = generator.multinomial(total, counts_K / total, size=5 * RESAMPLES) @ values_K / len(given_N)
    low, high = np.quantile(means_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(float(given_N.mean()), float(low), float(high), len(given_N))


def byte_differences(
    rows: Sequence[dict[str, Any]], pairs: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Difference]:
    """Bits per byte of one column less those of the other, of each pair of columns of bits; {} of fewer than FEWEST documents.

    rows: `id`, `source`, `bytes` and the columns, a row a document. Documents are drawn within their source. Percentiles are
    expanded (Hesterberg 2015, doi:10.1080/00031305.2015.1089789), by what they are too narrow for few documents.
    """
    columns = list(dict.fromkeys(column for pair in pairs for column in pair))
    found = strata(rows, [*columns, "bytes"])
    count = sum(map(len, found))
    if count < FEWEST:
        return {}
    sums_C, drawn_RC = sum(each.sum(0) for each in found), resampled_sums(found)
    tail = expanded_tail(count)
    place = {column: number for number, column in enumerate(columns)}
    told = {}
    for one, other in pairs:
        mean = (sums_C[place[one]] - sums_C[place[other]]) / sums_C[-1]
        drawn_R = (drawn_RC[:, place[one]] - drawn_RC[:, place[other]]) / drawn_RC[:, -1]
        low, high = np.quantile(drawn_R, [tail, 1 - tail])
        told[one, other] = Difference(float(mean), float(low), float(high), count)
    return told


def expanded_tail(count: int) -> float:
    """The share of resamples left out at either end: Phi(-t sqrt(n / (n - 1))), t the quantile of n - 1 degrees of freedom, by
    the expansion of Abramowitz and Stegun 26.7.5 (scipy takes half a second to import)."""
    z, degrees = NormalDist().inv_cdf((1 + LEVEL) / 2), count - 1
    t = z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    return NormalDist().cdf(-t * math.sqrt(count / (count - 1)))
