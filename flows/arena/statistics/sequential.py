"""Looks at a comparison while its pairs are still being run, so that clear cases end early and the error stays what was said.

Looks are counts of pairs that are planned before the first run. Each has a share of the error alpha = 1 - level, given by the
spending function of O'Brien and Fleming's shape, alpha(f) = 2 - 2 Phi(z / sqrt(f)) with z the 1 - alpha/2 quantile and f the
part of the pairs that a look has (Lan & DeMets 1983, doi:10.1093/biomet/70.3.659): little at first, so that the last look keeps
most of it. The intervals of a look are taken at 1 - its share (repeated confidence intervals: Jennison & Turnbull 1984,
Controlled Clinical Trials 5:33-45), and by the union bound all of them hold at once with probability `level`, however many
are looked at and wherever one stops. Differs: a union bound in place of the joint law of the looks, which is known for a known
variance; so it holds for t intervals of few pairs too, and for a second quantity of the same runs, at the price of wider ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import ndtr, ndtri

from flows.arena.statistics.ratios import LEVEL, MIN_PAIRS, Better, Comparison, Pair, Scale, compare

# An interval of level 1 has no end: a look whose share of the error is less than this has this
LEAST_SHARE = 1e-12


@dataclass(frozen=True)
class Decision:
    """Whether to stop. next_look: to how many pairs to go on, None when stopped. comparison: what is to be printed now."""

    stop: bool
    stopped_early: bool
    next_look: int | None
    comparison: Comparison


def planned_looks(pairs: int, count: int = 2) -> tuple[int, ...]:
    """At most `count` looks at equal distances, the last one at all pairs, none with too few for a verdict.

    Two by default: at 5 pairs a third look would widen the last interval by a fifth. Raises ValueError for no pair or no look.
    """
    if count < 1 or pairs < 1:
        raise ValueError(f"looks need at least 1 pair and 1 look: got {pairs} and {count}")
    looks = {max(math.ceil(pairs * k / count), MIN_PAIRS) for k in range(1, count + 1)}
    return (*sorted(look for look in looks if look < pairs), pairs)


def nominal_levels(looks: Sequence[int], level: float = LEVEL) -> tuple[float, ...]:
    """Level of the intervals at each look; what they leave out adds up to 1 - level.

    Raises ValueError unless looks rise and the level lies between 0 and 1.
    """
    if not looks or looks[0] < 1 or any(after <= before for before, after in zip(looks, looks[1:], strict=False)):
        raise ValueError(f"looks are rising counts of pairs: got {list(looks)}")
    if not 0 < level < 1:
        raise ValueError(f"a level lies between 0 and 1: got {level}")
    z = -float(ndtri((1 - level) / 2))
    spent = [2 * float(ndtr(-z / math.sqrt(look / looks[-1]))) for look in looks]
    return tuple(1 - max(now - before, LEAST_SHARE) for before, now in zip([0.0, *spent], spent, strict=False))


def compare_at(
    pairs: Sequence[Pair],
    looks: Sequence[int],
    level: float = LEVEL,
    better: Better = "lower",
    *,
    scale: Scale | None = None,
    lost: str = "diverged",
) -> Comparison:
    """The comparison of the pairs so far at the level of the first look that is not before them.

    So it holds for any quantity of runs that were stopped by another one, and for a study that is cut short between two looks
    by something else than its values. Raises ValueError for more pairs than the last look has.
    """
    levels = nominal_levels(looks, level)
    nominal = next((at for look, at in zip(looks, levels, strict=True) if look >= len(pairs)), None)
    if nominal is None:
        raise ValueError(f"{len(pairs)} pairs where {looks[-1]} were planned: no error is left for them")
    return compare(pairs, level, better, nominal=nominal, scale=scale, lost=lost)


def decide(
    pairs: Sequence[Pair],
    looks: Sequence[int],
    level: float = LEVEL,
    better: Better = "lower",
    *,
    scale: Scale | None = None,
    lost: str = "diverged",
) -> Decision:
    """Stop at the first look that finds the arm better or worse, else at the last one.

    pairs: in the order of the seeds, those that are done without a gap; a run without a value is done. Looks are taken again
    from the first, each at its own pairs, so that neither runs that ended ahead of a look nor a study taken up again changes
    the decision, and pairs beyond the look that stopped are not looked at.
    """
    for look in looks:
        if len(pairs) < look:
            return Decision(False, False, look, compare_at(pairs, looks, level, better, scale=scale, lost=lost))
        found = compare_at(pairs[:look], looks, level, better, scale=scale, lost=lost)
        if look == looks[-1] or found.verdict in ("better", "worse"):
            return Decision(True, look < looks[-1], None, found)
    raise ValueError("a comparison needs a look")
