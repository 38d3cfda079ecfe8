"""A forest plot: a line of text a ratio, with a lane that shows it and its intervals on a shared logarithmic axis.

Lanes are SVG in percent of their own width, so that text keeps its size in a narrow window, names of any length wrap, and what
a filter hides leaves no gap.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from flows.arena.pages.axis import Axis, logarithmic
from flows.arena.pages.number_format import format_with_interval

MOST = 4.0  # an axis ends at this ratio and at its inverse; what lies beyond is an arrow
INSET = 3.0  # percent of a lane at each end, so that a dot at it is whole
KINDS = {
    "better": "good", "worse": "bad", "cannot be compared": "none",
    "shown": "good", "contradicted": "bad", "cannot be shown here": "none",
}  # fmt: skip
Ends = tuple[float, float] | None


@dataclass(frozen=True)
class Mark:
    """A ratio with its intervals, and the verdict, which colours it."""

    name: str
    ratio: float
    t: Ends
    bootstrap: Ends
    verdict: str


def axis(marks: Sequence[Mark], noise: Ends = None) -> Axis:
    """The axis of these ratios: holds 1 and all ends of intervals that lie within MOST."""
    values = [1.0, *(noise or ())]
    for mark in marks:
        values += [mark.ratio, *(mark.t or ()), *(mark.bootstrap or ())]
    return logarithmic(min(max(value, 1 / MOST), MOST) for value in values)


def kind(verdict: str) -> str:
    """The class of a verdict's colour: good, bad, none where nothing is said, plain for all else."""
    return KINDS.get(verdict, "plain")


def lane(mark: Mark, on: Axis, noise: Ends = None) -> str:
    """The lane of a ratio: the bootstrap interval broad and pale, the t interval a line, both on the noise floor's band."""
    says = f"{mark.name}: {format_with_interval(mark.ratio, mark.t)}, {mark.verdict}"
    marks = []
    if mark.bootstrap:
        left, right = (_percent(on, end) for end in mark.bootstrap)
        marks.append(f'<rect class="bootstrap" x="{left:.2f}%" y="-4" width="{right - left:.2f}%" height="8" rx="2"/>')
    if mark.t:
        left, right = (_percent(on, end) for end in mark.t)
        marks.append(f'<line class="t" x1="{left:.2f}%" y1="0" x2="{right:.2f}%" y2="0"/>')
        marks += [_end(on, end) for end in mark.t]
    if on.beyond(mark.ratio):
        marks.append(_arrow(on, mark.ratio))
    else:
        marks.append(f'<circle class="at" cx="{_percent(on, mark.ratio):.2f}%" cy="0" r="4.5"/>')
    # a lane is as high as the text beside it, and its marks are around the middle, which is 0 to the inner SVG
    return (
        f'<span class="lane {kind(mark.verdict)}"><svg role="img" aria-label="{escape(says)}"><title>{escape(says)}</title>'
        f'{"".join(_ground(on, noise))}<svg y="50%">{"".join(marks)}</svg></svg></span>'
    )


def scale(on: Axis) -> str:
    """The axis' labels, which stand in a lane's place below or above the others."""
    labels = [
        f'<text class="tick" x="{_percent(on, value):.2f}%" y="13" text-anchor="middle">{text}</text>'
        for value, text in on.ticks
    ]
    return f'<span class="lane scale"><svg aria-hidden="true">{"".join(labels)}</svg></span>'


def left_out(marks: Iterable[Mark], on: Axis) -> bool:
    """Whether a ratio or an end lies beyond the axis, so that an arrow stands for it."""
    return any(on.beyond(value) for m in marks for value in (m.ratio, *(m.t or ())))


def _ground(on: Axis, noise: Ends) -> list[str]:
    """Noise floor, lines of the ticks, and the line of 1 above all of them; the lines of lanes meet."""
    parts = []
    if noise:
        left, right = (_percent(on, end) for end in noise)
        parts.append(f'<rect class="noise" x="{left:.2f}%" y="0" width="{max(right - left, 0.3):.2f}%" height="100%"/>')
    for value in [value for value, _ in on.ticks] + [1.0]:
        place = f"{_percent(on, value):.2f}%"
        name = "one" if value == 1.0 else "grid"
        parts.append(f'<line class="{name}" x1="{place}" y1="0" x2="{place}" y2="100%"/>')
    return parts


def _end(on: Axis, value: float) -> str:
    """A short bar where an interval ends, an arrow where it goes on beyond the axis."""
    if on.beyond(value):
        return _arrow(on, value)
    place = f"{_percent(on, value):.2f}%"
    return f'<line class="t" x1="{place}" y1="-4" x2="{place}" y2="4"/>'


def _arrow(on: Axis, value: float) -> str:
    """A tip at the end of the axis beyond which a value lies. It is an SVG of its own, since a path knows no percent."""
    low = value < on.low
    path = "M7 -4.5L0 0L7 4.5z" if low else "M0 -4.5L7 0L0 4.5z"
    return f'<svg x="{0 if low else 100 - INSET:g}%"><path class="at" d="{path}"/></svg>'


def _percent(on: Axis, value: float) -> float:
    return INSET + (100 - 2 * INSET) * on.share(value)
