"""An arm beside its baseline over paired seeds: ratio with a t and a bootstrap interval, and the verdict that both allow.

A pair is (arm, baseline) of one seed. On the scale "ratio" the mean of log(arm / baseline) is estimated, so that the ratio is
the geometric mean of the pairs' ratios and swapping the two gives its inverse. Where a value is 0 or below (an accuracy may be
0), there is no logarithm and the scale is "difference": the mean of arm - baseline, in the unit of the measure.

A run without a value (None, or no finite number: it diverged, or did not reach a target) leaves its pair out, and is counted.
Leaving it out spares the side that it belongs to, so of the verdicts only one against the side that alone lost runs stands;
every other becomes "cannot be compared".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from flows.arena.statistics.intervals import Interval, bootstrap_interval, t_interval

Pair = tuple[float | None, float | None]  # arm, baseline
Better = Literal["lower", "higher"]
Scale = Literal["ratio", "difference"]
Verdict = Literal["better", "worse", "no difference", "cannot be compared"]
LEVEL = 0.95
# A bootstrap of 2 pairs knows 3 means, and in 1 case of 20 their SD is 16 times too small: no verdict by either
MIN_PAIRS = 3
ROUNDING = (
    1e-12  # of a value: two that differ by less are equal, or a sum in another order would be a certain difference
)


@dataclass(frozen=True)
class Comparison:
    """What paired runs say. Every number is on `scale`, and None where there are too few pairs for it.

    estimate: of arm / baseline, or of arm - baseline. sd: of one pair's log ratio, or difference. level: what is promised of
    the verdict. nominal: the level at which the two intervals were taken, above `level` where several looks share the error.
    pairs: those in which both runs have a value. why: in one line what a reader must know beside the numbers, or "".
    """

    scale: Scale
    estimate: float | None
    sd: float | None
    t: Interval | None
    bootstrap: Interval | None
    level: float
    nominal: float
    pairs: int
    lost_by_arm: int
    lost_by_baseline: int
    verdict: Verdict
    why: str = ""

    def row(self) -> dict[str, Any]:
        """The numbers for JSON, finite or None. On the scale "difference", ratio and its intervals are None, and `difference`
        has the mean and both intervals; else it is None."""
        numbers = {"t": listed(self.t), "bootstrap": listed(self.bootstrap)}
        ratio: dict[str, Any] = {"ratio": finite(self.estimate), **numbers, "difference": None}
        if self.scale == "difference":
            difference = {"mean": finite(self.estimate), **numbers}
            ratio = {"ratio": None, "t": None, "bootstrap": None, "difference": difference}
        return ratio | {"level": self.level, "pairs": self.pairs, "verdict": self.verdict, "why": self.why}


def compare(
    pairs: Sequence[Pair],
    level: float = LEVEL,
    better: Better = "lower",
    *,
    nominal: float | None = None,
    scale: Scale | None = None,
    lost: str = "diverged",
) -> Comparison:
    """The comparison of an arm with its baseline; (arm, baseline) a seed.

    nominal: the level of the intervals, by default `level`. scale: by default "ratio" where every value is above 0. lost: what
    happened to a run without a value, in the past tense. One pair gives the estimate alone, two give the t interval too; a
    verdict needs MIN_PAIRS. Raises ValueError where a level is not between 0 and 1, and where a ratio is asked for of a value
    at or below 0.
    """
    nominal = level if nominal is None else nominal
    if not (0 < level < 1 and 0 < nominal < 1):
        raise ValueError(f"a level lies between 0 and 1: got {level}, for the intervals {nominal}")
    x, scale = effects(pairs, scale)
    t = t_interval(x, nominal) if len(x) >= 2 else None
    bootstrap = bootstrap_interval(x, nominal) if len(x) >= MIN_PAIRS else None
    by_arm, by_baseline = (sum(not has_value(pair[side]) for pair in pairs) for side in (0, 1))
    found = Comparison(
        scale=scale,
        estimate=on_scale(float(np.mean(x)), scale) if len(x) else None,
        sd=float(np.std(x, ddof=1)) if len(x) >= 2 else None,
        t=t and (on_scale(t[0], scale), on_scale(t[1], scale)),
        bootstrap=bootstrap and (on_scale(bootstrap[0], scale), on_scale(bootstrap[1], scale)),
        level=level,
        nominal=nominal,
        pairs=len(x),
        lost_by_arm=by_arm,
        lost_by_baseline=by_baseline,
        verdict=verdict_of(t, bootstrap, better, by_arm, by_baseline),
    )
    return replace(found, why=why(found, len(pairs), lost))


def effects(pairs: Sequence[Pair], scale: Scale | None = None) -> tuple[np.ndarray, Scale]:
    """log(arm / baseline), or arm - baseline, of the pairs in which both have a value, (pairs,); and the scale that it is."""
    both = np.array([pair for pair in pairs if has_value(pair[0]) and has_value(pair[1])], float).reshape(-1, 2)
    scale = scale or ("ratio" if (both > 0).all() else "difference")
    if scale == "ratio" and not (both > 0).all():
        raise ValueError(f"a ratio needs values above 0: got {both.min():g}")
    equal = np.isclose(both[:, 0], both[:, 1], rtol=ROUNDING, atol=0)
    arm, baseline = np.log(both).T if scale == "ratio" else both.T
    return np.where(equal, 0.0, arm - baseline), scale


def verdict_of(
    t: Interval | None, bootstrap: Interval | None, better: Better, by_arm: int, by_baseline: int
) -> Verdict:
    """What two intervals of a mean log ratio, or difference, say: to see one, both must exclude 0, on the same side.

    by_arm, by_baseline: runs without a value. Beside them a verdict stands only if it goes against the one side that has any.
    """
    if t is None or bootstrap is None:
        return "cannot be compared"
    found: Verdict = "no difference"
    if min(t[0], bootstrap[0]) > 0:
        found = "better" if better == "higher" else "worse"
    elif max(t[1], bootstrap[1]) < 0:
        found = "better" if better == "lower" else "worse"
    against_baseline, against_arm = found == "better" and not by_arm, found == "worse" and not by_baseline
    return found if not (by_arm or by_baseline) or against_baseline or against_arm else "cannot be compared"


def why(found: Comparison, all_pairs: int, lost: str) -> str:
    """What a reader must know beside the numbers of a comparison, in one line; "" where there is nothing."""
    sides = (("arm", found.lost_by_arm), ("baseline", found.lost_by_baseline))
    said = [f"the {side} {lost} in {count} of {all_pairs} pairs" for side, count in sides if count]
    if found.pairs < MIN_PAIRS:
        said.append(f"a verdict needs {MIN_PAIRS} pairs with both values, here {found.pairs}")
    if found.scale == "difference" and found.pairs:
        said.append(f"by differences, {found.estimate:.4g}{shown('t', found.t)}{shown('bootstrap', found.bootstrap)}")
    if found.sd is not None and found.sd <= ROUNDING and found.verdict in ("better", "worse"):
        said.append("the same in every pair")
    return "; ".join(said)


def has_value(value: float | None) -> bool:
    """Whether a run has a value: a finite number."""
    return value is not None and math.isfinite(value)


def on_scale(mean: float, scale: Scale) -> float:
    """A mean log ratio as a ratio, inf where that is beyond a float; a difference as it is."""
    if scale == "difference":
        return mean
    with np.errstate(over="ignore"):
        return float(np.exp(mean))


def shown(name: str, interval: Interval | None) -> str:
    return f", {name} {interval[0]:.4g} to {interval[1]:.4g}" if interval else ""


def finite(value: float | None) -> float | None:
    """The value, or None in place of what JSON has no number for."""
    return value if value is not None and math.isfinite(value) else None


def listed(interval: Interval | None) -> list[float] | None:
    """Both ends, or None where one of them is no finite number."""
    return list(interval) if interval and all(map(math.isfinite, interval)) else None
