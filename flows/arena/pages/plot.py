"""Charts of a study as SVG text: curves of runs, and the trials of a search."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from flows.arena.pages.axis import Axis
from tasks.report.chart import HEIGHT, LEFT, TOP, WIDTH, X_END, Y_END, thinned

DRAWN = 120  # at most about so many points of a line
BEYOND = 3.0  # heights of the chart by which a line may leave it before it is cut
Place = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """The curve of a run: what is said of it under the mouse, the class that gives it its colour, its points by x."""

    says: str
    kind: str
    points: list[Place]


@dataclass(frozen=True)
class Dot:
    """A trial at x; y is None where it has no value, as a diverged one."""

    says: str
    x: float
    y: float | None
    chosen: bool = False


def curves(lines: Iterable[Line], x: Axis, y: Axis, label: str, x_label: str) -> str:
    """The SVG of lines over a common axis; a line that leaves the chart is cut at its edge."""
    high, wide = Y_END - TOP, X_END - LEFT

    def at(point: Place) -> Place:
        up = (point[1] - y.low) / (y.high - y.low)
        return wide * x.share(point[0]), high * (1 - min(max(up, -BEYOND), 1 + BEYOND))

    drawn = []
    for line in lines:
        title, places = f"<title>{escape(line.says)}</title>", [at(point) for point in thinned(line.points, DRAWN)]
        if len(places) == 1:
            across, down = places[0]
            drawn.append(f'<circle class="point {line.kind}" cx="{across:.1f}" cy="{down:.1f}" r="3">{title}</circle>')
        elif places:
            text = " ".join(f"{across:.1f},{down:.1f}" for across, down in places)
            drawn.append(f'<polyline class="run {line.kind}" points="{text}">{title}</polyline>')
    # an SVG inside another shows nothing beyond its edges
    inside = [f'<svg x="{LEFT}" y="{TOP}" width="{wide}" height="{high}">', *drawn, "</svg>"]
    return _framed(inside, x, y, label, x_label)


def trials(
    dots: Sequence[Dot], ends: tuple[float, float] | None, kind: str, x: Axis, y: Axis, label: str, x_label: str
) -> str:
    """The SVG of the values that a parameter was tried at: the chosen one in a ring, a cross on top for one without a value.

    ends: of the range that was searched, drawn as broken lines; None where it is not known.
    """
    parts = []
    for end in ends or ():
        place = f"{LEFT + (X_END - LEFT) * x.share(end):.1f}"
        parts.append(f'<line class="end" x1="{place}" y1="{TOP}" x2="{place}" y2="{Y_END}"/>')
    for dot in dots:
        across = LEFT + (X_END - LEFT) * x.share(dot.x)
        title = f"<title>{escape(dot.says)}</title>"
        if dot.y is None:
            cross = f"M{across - 4:.1f} {TOP + 2}l8 8m0 -8l-8 8"
            parts.append(f'<path class="cross" d="{cross}">{title}</path>')
            continue
        down = Y_END - (Y_END - TOP) * y.share(dot.y)
        parts.append(f'<circle class="point {kind}" cx="{across:.1f}" cy="{down:.1f}" r="3.5">{title}</circle>')
        if dot.chosen:
            parts.append(f'<circle class="chosen" cx="{across:.1f}" cy="{down:.1f}" r="7.5"/>')
    return _framed(parts, x, y, label, x_label)


def _framed(inside: list[str], x: Axis, y: Axis, label: str, x_label: str) -> str:
    """The chart around what is drawn in it."""
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" class="chart" role="img" aria-label="{escape(label)}">']
    for value, text in y.ticks:
        down = Y_END - (Y_END - TOP) * y.share(value)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{down:.1f}" x2="{X_END}" y2="{down:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{down + 3.5:.1f}" text-anchor="end">{text}</text>')
    for value, text in x.ticks:
        across = f"{LEFT + (X_END - LEFT) * x.share(value):.1f}"
        parts.append(f'<line class="axis" x1="{across}" y1="{Y_END}" x2="{across}" y2="{Y_END + 4}"/>')
        parts.append(f'<text class="tick" x="{across}" y="{Y_END + 15}" text-anchor="middle">{text}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" y1="{Y_END}" x2="{X_END}" y2="{Y_END}"/>')
    parts += inside
    parts.append(f'<text class="tick" x="{X_END}" y="{HEIGHT - 2}" text-anchor="end">{escape(x_label)}</text>')
    return "".join([*parts, "</svg>"])
