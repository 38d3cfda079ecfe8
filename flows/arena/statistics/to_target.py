"""Tokens, FLOP and seconds at which a curve reaches a target and stays there.

Smoothing: running medians over a window of a tenth of the points, at least 5 and odd, that shrinks evenly towards both ends,
and Tukey's rule for the first and the last point (Tukey 1977, Exploratory Data Analysis, chapter 7; R's runmed with endrule
"median"). The median of such a window is the middle point of any curve that only falls, so that a smooth curve stays as it is,
where a mean would shift every bent one; and a spike shorter than half of the window neither reaches a target nor leaves it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flows.arena.statistics.ratios import Better

SHARE_OF_POINTS = 0.1
LEAST_WINDOW = 5


@dataclass(frozen=True)
class Reached:
    """Where a curve reached a target. seconds, flop: None where they are not told."""

    tokens: float
    seconds: float | None
    flop: float | None


def to_target(
    curve: Sequence[Sequence[float | None]], target: float, flop_a_token: float | None = None, better: Better = "lower"
) -> Reached | None:
    """The first place from which on the smoothed curve is at the target or beyond it, up to its end; None if there is none.

    curve: [tokens, seconds, value] a point, tokens rising. Tokens and seconds are interpolated linearly between the last point
    that is not at the target and the next; a curve that begins at it has reached it at its first point. A value that is None
    or no finite number counts as far from the target. Raises ValueError where tokens do not rise.
    """
    points = np.array([[math.nan if x is None else x for x in point] for point in curve], float).reshape(-1, 3)
    if not (np.diff(points[:, 0]) > 0).all():
        raise ValueError("the tokens of a curve must rise from point to point")
    if not len(points):
        return None
    sign = 1 if better == "lower" else -1
    over = smoothed(with_numbers(sign * (points[:, 2] - target)))
    away = np.flatnonzero(over > 0)
    first = int(away[-1]) + 1 if len(away) else 0
    if first == len(points):
        return None
    share = over[first - 1] / (over[first - 1] - over[first]) if first else 1.0
    before, after = points[max(first - 1, 0), :2], points[first, :2]
    tokens, seconds = before + share * (after - before)
    return Reached(float(tokens), float(seconds), None if flop_a_token is None else float(tokens) * flop_a_token)


def with_numbers(over: np.ndarray) -> np.ndarray:
    """Distances over a target, each that is no finite number replaced by one above 0 and above all others."""
    known = np.isfinite(over)
    return np.where(known, over, np.max(over, initial=0.0, where=known) + 1)


def smoothed(values: np.ndarray, window: int | None = None) -> np.ndarray:
    """Running medians, as many as values. window: odd, by default a tenth of the points and at least LEAST_WINDOW.

    Up to 2 values are left as they are. Raises ValueError for a window that is not odd.
    """
    count = len(values)
    window = max(LEAST_WINDOW, 2 * int(SHARE_OF_POINTS * count / 2) + 1) if window is None else window
    if window < 1 or window % 2 == 0:
        raise ValueError(f"a window of medians is odd: got {window}")
    if count < 3 or window == 1:
        return values
    medians = np.empty(count)
    if window <= count:  # all whole windows at once: 20 times as fast
        whole = np.lib.stride_tricks.sliding_window_view(values, window)
        medians[window // 2 : count - window // 2] = np.median(whole, axis=-1)
    reach = [min(window // 2, i, count - 1 - i) for i in range(count)]
    for i, r in enumerate(reach):
        if r < window // 2:
            medians[i] = np.median(values[i - r : i + r + 1])
    inner = medians.copy()
    medians[0] = end_point(values[0], inner[1], inner[2])
    medians[-1] = end_point(values[-1], inner[-2], inner[-3])
    return medians


def end_point(value: float, beside: float, after: float) -> float:
    """Tukey's rule: the median of the value, its neighbour, and the line through its two neighbours two steps outwards.

    So a curve that goes on at its end is left as it is, unless its last step is more than twice the one before.
    """
    return float(np.median([value, beside, 3 * beside - 2 * after]))
