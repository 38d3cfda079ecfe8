"""Line charts as SVG text: axes with ticks, the raw line faint, the smoothed line bold, values on hover."""

import math
from collections.abc import Callable, Iterable
from html import escape
from itertools import pairwise

from tasks.report.words import number

Place = tuple[float, float]
Points = list[Place]

WIDTH, HEIGHT = 360, 210
LEFT, X_END, TOP, Y_END = 52, WIDTH - 12, 10, HEIGHT - 30
DRAWN, HOVERED = 400, 60  # at most so many points of a line, so many places that answer the mouse


def line_chart(points: Points, label: str, x_label: str = "step") -> str:
    """The SVG of one curve, its points in order of x; `label` is what a reader hears. Empty for no finite point."""
    points = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if not points:
        return ""
    smooth = smoothed(points)
    x_ticks = nice_ticks(*_span(x for x, _ in points), 5)
    y_ticks = nice_ticks(*_span(y for _, y in points), 5)
    low_x, high_x = _span(x for x, _ in points)
    low_y, high_y = y_ticks[0], y_ticks[-1]

    def at(x: float, y: float) -> Place:
        across = (x - low_x) / (high_x - low_x) if high_x > low_x else 0.5
        up = (y - low_y) / (high_y - low_y)
        return LEFT + across * (X_END - LEFT), Y_END - up * (Y_END - TOP)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" class="chart" role="img" aria-label="{escape(label)}">']
    parts += [_y_tick(at(low_x, y)[1], tick(y, y_ticks)) for y in y_ticks]
    parts += [_x_tick(at(x, low_y)[0], tick(x, x_ticks)) for x in x_ticks if low_x <= x <= high_x]
    parts.append(f'<line class="axis" x1="{LEFT}" y1="{Y_END}" x2="{X_END}" y2="{Y_END}"/>')
    parts.append(f'<text class="tick" x="{X_END}" y="{HEIGHT - 2}" text-anchor="end">{escape(x_label)}</text>')
    if len(points) == 1:
        x, y = at(*points[0])
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
    elif smooth is points:
        parts.append(_line("smooth", [at(*p) for p in thinned(points, DRAWN)]))
    else:
        parts.append(_line("raw", [at(*p) for p in thinned(points, DRAWN)]))
        parts.append(_line("smooth", [at(*p) for p in thinned(smooth, DRAWN)]))
    parts += _hover(spread_evenly(list(zip(points, smooth, strict=True)), HOVERED), at, x_label)
    return "".join([*parts, "</svg>"])


def smoothed(points: Points, share: float = 0.04) -> Points:
    """The centred mean over `share` of the points on each side together; the points themselves when they are few."""
    half = int(len(points) * share / 2)
    if half == 0:
        return points
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    line = []
    for i, (x, _) in enumerate(points):
        reach = min(half, i, len(points) - 1 - i)
        line.append((x, (sums[i + reach + 1] - sums[i - reach]) / (2 * reach + 1)))
    return line


def thinned(points: Points, most: int) -> Points:
    """At most about `most` points: the lowest and the highest of each stretch, so that no spike is lost."""
    if len(points) <= most:
        return points
    stretches = most // 2
    kept = []
    for i in range(stretches):
        group = range(len(points) * i // stretches, len(points) * (i + 1) // stretches)
        kept += sorted({min(group, key=lambda j: points[j][1]), max(group, key=lambda j: points[j][1])})
    return [points[j] for j in sorted({0, *kept, len(points) - 1})]


def spread_evenly(items: list, most: int) -> list:
    """At most `most` of the items, evenly, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[i * (len(items) - 1) // (most - 1)] for i in range(most)]


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers a round step apart that enclose [low, high], roughly `about` of them."""
    if high - low <= max(1e-12 * max(abs(low), abs(high)), 1e-300):  # or steps would be of digits that a float has not
        pad = abs(low) * 0.1 if abs(low) > 1e-290 else 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / about
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= rough * 0.999)
    return [i * step for i in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


def tick(value: float, ticks: list[float]) -> str:
    """A tick's label, with just the decimals that tell it from its neighbours."""
    step = ticks[1] - ticks[0]
    if max(abs(t) for t in ticks) >= 1e5 or step < 1e-4:
        return f"{value:.3g}".replace("e+0", "e").replace("e-0", "e-") if value else "0"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    decimals += abs(step * 10**decimals - round(step * 10**decimals)) > 1e-6  # a step of 2.5 needs one more
    return f"{value + 0.0:.{decimals}f}"


def _span(values: Iterable[float]) -> tuple[float, float]:
    found = list(values)
    return min(found), max(found)


def _y_tick(y: float, text: str) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{X_END}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>'
    )


def _x_tick(x: float, text: str) -> str:
    return (
        f'<line class="axis" x1="{x:.1f}" y1="{Y_END}" x2="{x:.1f}" y2="{Y_END + 4}"/>'
        f'<text class="tick" x="{x:.1f}" y="{Y_END + 15}" text-anchor="middle">{text}</text>'
    )


def _line(kind: str, places: list[Place]) -> str:
    return f'<polyline class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'


def _hover(pairs: list[tuple[Place, Place]], at: Callable[[float, float], Place], x_label: str) -> list[str]:
    """Invisible columns, each with its (raw, smoothed) point as title, and a dot that shows under the mouse."""
    places = [at(*mean) for _, mean in pairs]
    edges = [LEFT, *((a[0] + b[0]) / 2 for a, b in pairwise(places)), X_END]
    parts = []
    for i, ((x, y), (_, mean)) in enumerate(pairs):
        text = f"{x_label} {number(x)}: {number(y)}" + (f" (smoothed {number(mean)})" if mean != y else "")
        parts.append(
            f'<g class="hover"><title>{escape(text)}</title><rect x="{edges[i]:.1f}" y="{TOP}" '
            f'width="{edges[i + 1] - edges[i]:.1f}" height="{Y_END - TOP}"/>'
            f'<circle cx="{places[i][0]:.1f}" cy="{places[i][1]:.1f}" r="3"/></g>'
        )
    return parts
