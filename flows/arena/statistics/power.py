"""Pairs that it takes to find a ratio, and the smallest ratio that so many pairs find: power of the paired t test.

The log ratios of pairs of a seed have a SD, which a study's own pairs show. A ratio r is found by n pairs with
probability P(|T| > t), where T is noncentral t of n - 1 degrees of freedom and noncentrality |log r| sqrt(n) / SD, and t the
quantile of the level (Johnson & Welch 1940, doi:10.1093/biomet/31.3-4.362). With several looks the level is that of the last
one, as if no other were taken: those before it only add to the power. The bootstrap interval, which a verdict asks as well,
takes up to a hundredth of it (3,000 trials each of 4 to 44 pairs).
"""

import math

from scipy.special import chdtri

from flows.arena.statistics.ratios import LEVEL, MIN_PAIRS
from flows.arena.statistics.sequential import nominal_levels, planned_looks

POWER = 0.9
MOST_PAIRS = 1_000_000


def power_of(pairs: int, ratio: float, sd: float, level: float = LEVEL, looks: int = 1) -> float:
    """Probability that so many pairs find a ratio. sd: of the log ratio of a pair.

    Raises ValueError for fewer pairs than a verdict needs, a ratio that is not above 0 and a SD below 0.
    """
    if pairs < MIN_PAIRS or not ratio > 0 or not sd >= 0:
        raise ValueError(f"power wants {MIN_PAIRS} pairs or more, ratio > 0, SD >= 0: got {pairs}, {ratio:g}, {sd:g}")
    from scipy.stats import nct, t  # 0.6 s, which a study has no use for before its end

    effect = abs(math.log(ratio))
    if sd == 0:
        return float(effect > 0)
    at = nominal_levels(planned_looks(pairs, looks), level)[-1]
    critical, moved = float(t.isf((1 - at) / 2, pairs - 1)), effect * math.sqrt(pairs) / sd
    # the lower tail is the upper one of the opposite effect
    return min(float(nct.sf(critical, pairs - 1, moved)) + float(nct.sf(critical, pairs - 1, -moved)), 1.0)


def pairs_needed(ratio: float, sd: float, level: float = LEVEL, power: float = POWER, looks: int = 1) -> int:
    """The number of pairs that finds a ratio with at least this power where one pair less does not, or MIN_PAIRS.

    Raises ValueError for a ratio of 1, which nothing finds, and where MOST_PAIRS would not be enough.
    """
    if ratio == 1:
        raise ValueError("a ratio of 1 is no difference: no number of pairs finds it")
    few, enough = MIN_PAIRS - 1, MIN_PAIRS
    while power_of(enough, ratio, sd, level, looks) < power:
        if enough >= MOST_PAIRS:
            raise ValueError(f"more than {MOST_PAIRS:,} pairs for a ratio of {ratio:g} at a SD of {sd:g}")
        few, enough = enough, min(2 * enough, MOST_PAIRS)
    while enough - few > 1:
        middle = (enough + few) // 2
        if power_of(middle, ratio, sd, level, looks) < power:
            few = middle
        else:
            enough = middle
    return enough


def smallest_ratio(pairs: int, sd: float, level: float = LEVEL, power: float = POWER, looks: int = 1) -> float:
    """The ratio nearest to 1, and above it, that so many pairs find with this power; its inverse is as far below."""
    if sd == 0:
        return 1.0
    from scipy.optimize import brentq  # 0.2 s

    def above(effect: float) -> float:
        return power_of(pairs, math.exp(effect), sd, level, looks) - power

    far = sd
    while above(far) < 0:
        far *= 2
    return math.exp(brentq(above, 0.0, far, xtol=1e-12 * far))


def largest_sd(sd: float, pairs: int, confidence: float = 0.8) -> float:
    """An upper bound of the true SD, by chi-square, where `sd` was seen over so many pairs.

    What a few pairs show is below the truth in more than half of the cases, and a plan made by it misses its power; one made by
    the 80% bound reaches it in 80% of studies (Browne 1995, doi:10.1002/sim.4780141709). Raises ValueError below 2 pairs.
    """
    if pairs < 2:
        raise ValueError(f"a SD needs 2 pairs or more: got {pairs}")
    return sd * math.sqrt((pairs - 1) / float(chdtri(pairs - 1, confidence)))
