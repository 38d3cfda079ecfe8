"""Accuracy against size on disk as SVG text: a dot a model with its interval, sizes on a logarithmic axis, and the
frontier: the steps that no model lies above."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from tasks.report.words import percent, size

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 46, WIDTH - 16, 14, HEIGHT - 34
ROOM = 13  # between two names one below the other


@dataclass(frozen=True)
class ScatterPoint:
    """A model: its bytes, its accuracy and the ends of that one's interval. dominated: drawn pale, since another is no larger
    and answers no less."""

    name: str
    bytes: float
    accuracy: float
    low: float
    high: float
    dominated: bool = False


def scatter(dots: list[ScatterPoint]) -> str:
    """The SVG; empty for fewer than two models, of which there is nothing to compare."""
    if len(dots) < 2:
        return ""
    first, last = math.log2(min(d.bytes for d in dots)), math.log2(max(d.bytes for d in dots))
    middle, span = (first + last) / 2, max(last - first, 1.0) * 1.3
    top = min(1.0, math.ceil(max(d.high for d in dots) * 5) / 5) or 1.0  # a multiple of 20%

    def across(count: float) -> float:
        return LEFT + (RIGHT - LEFT) * ((math.log2(count) - middle) / span + 0.5)

    def down(share: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * share / top

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" class="chart scatter" role="img" aria-label="accuracy against size on disk">'
    ]
    for step in range(6):
        share = top * step / 5
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{down(share):.1f}" x2="{RIGHT}" y2="{down(share):.1f}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 6}" y="{down(share) + 3.5:.1f}" text-anchor="end">{100 * share:.0f}%</text>'
        )
    parts.append(f'<line class="axis" x1="{LEFT}" y1="{BOTTOM}" x2="{RIGHT}" y2="{BOTTOM}"/>')
    parts += _sizes(dots, across)
    parts.append(_frontier(dots, across, down))
    names: list[tuple[float, float]] = []
    for dot in sorted(dots, key=lambda d: (d.bytes, -d.accuracy)):
        x, y = across(dot.bytes), down(dot.accuracy)
        says = f"{dot.name}: {percent(dot.accuracy)} ({percent(dot.low)} to {percent(dot.high)}) in {size(dot.bytes)}"
        pale = " pale" if dot.dominated else ""
        parts.append(
            f'<g class="model{pale}"><title>{escape(says)}</title><line class="whisker" '
            f'x1="{x:.1f}" y1="{down(dot.low):.1f}" x2="{x:.1f}" y2="{down(dot.high):.1f}"/>'
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4"/></g>'
        )
        right = x < (LEFT + RIGHT) / 2
        at = min(y - 6, BOTTOM - 5)  # above the steps of the frontier
        while any(abs(at - other) < ROOM and abs(x - place) < 90 for place, other in names):
            at -= ROOM
        names.append((x, at))
        beside, anchor = (x + 8, "start") if right else (x - 8, "end")
        parts.append(
            f'<text class="name{pale}" x="{beside:.1f}" y="{at:.1f}" text-anchor="{anchor}">{escape(dot.name)}</text>'
        )
    return "".join([*parts, "</svg>"])


def _frontier(dots: list[ScatterPoint], across: Callable[[float], float], down: Callable[[float], float]) -> str:
    """Steps through the models that none dominates: at each size the most that one of so many bytes answers."""
    best = sorted((dot.bytes, dot.accuracy) for dot in dots if not dot.dominated)
    places: list[tuple[float, float]] = []
    for bytes_, accuracy in best:
        if places:
            places.append((across(bytes_), places[-1][1]))
        places.append((across(bytes_), down(accuracy)))
    places += [(float(RIGHT), places[-1][1])] if places else []
    return f'<polyline class="frontier" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'


def _sizes(dots: list[ScatterPoint], across: Callable[[float], float]) -> list[str]:
    """The sizes below the axis, those left out that would stand in another's way."""
    parts, taken = [], -math.inf
    for count in sorted({dot.bytes for dot in dots}):
        x = min(max(across(count), LEFT + 20), RIGHT - 20)
        if x - taken >= 56:
            parts.append(f'<text class="tick" x="{x:.1f}" y="{BOTTOM + 15}" text-anchor="middle">{size(count)}</text>')
            taken = x
    parts.append(f'<text class="tick" x="{RIGHT}" y="{HEIGHT - 3}" text-anchor="end">size on disk</text>')
    return parts
