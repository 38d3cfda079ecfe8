"""Charts: ticks enclose the data, thinning loses no spike, smoothing keeps a straight line straight."""

import math
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.report.chart import HEIGHT, WIDTH, line_chart, nice_ticks, smoothed, spread_evenly, thinned, tick

LINES = re.compile(r'points="([^"]*)"')
FINITE = st.floats(-1e6, 1e6)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(low=FINITE, width=st.floats(1e-3, 1e6))
def test_ticks_enclose_the_data(low: float, width: float) -> None:
    ticks = nice_ticks(low, low + width, 5)
    step = ticks[1] - ticks[0]
    assert ticks[0] <= low + 1e-6 * step
    assert ticks[-1] >= low + width - 1e-6 * step
    assert 3 <= len(ticks) <= 8


def test_ticks_are_round_and_told_apart() -> None:
    ticks = nice_ticks(0.13, 1.02, 5)
    assert [tick(t, ticks) for t in ticks] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0", "1.2"]
    assert [tick(t, [0, 2.5, 5.0]) for t in (0, 2.5, 5.0)] == ["0.0", "2.5", "5.0"]
    assert [tick(t, [0, 0.0025, 0.005]) for t in (0.0025, 0.005)] == ["0.0025", "0.0050"]
    assert [tick(t, [0, 500.0]) for t in (0, 500.0)] == ["0", "500"]
    small = nice_ticks(0, 8e-6, 4)
    assert [tick(t, small) for t in small] == ["0", "2e-6", "4e-6", "6e-6", "8e-6"]


@settings(deadline=None, max_examples=25, derandomize=True)
@given(values=st.lists(FINITE, min_size=1, max_size=600), most=st.integers(4, 50))
def test_thinning_keeps_the_ends_and_the_extremes(values: list[float], most: int) -> None:
    points = [(float(i), v) for i, v in enumerate(values)]
    thin = thinned(points, most)
    assert len(thin) <= max(most + 2, 2)
    assert thin[0] == points[0]
    assert thin[-1] == points[-1]
    assert thin == sorted(thin)
    assert max(y for _, y in thin) == max(values)
    assert min(y for _, y in thin) == min(values)


def test_smoothing_keeps_a_straight_line_and_calms_a_noisy_one() -> None:
    line = [(float(i), 3.0 * i) for i in range(200)]
    assert [y for _, y in smoothed(line)] == pytest.approx([y for _, y in line])
    noise = [(float(i), float(i % 2)) for i in range(200)]
    calm = [y for _, y in smoothed(noise)][10:-10]
    assert max(calm) - min(calm) < 0.3


def test_spread_keeps_first_and_last() -> None:
    assert spread_evenly(list(range(100)), 4) == [0, 33, 66, 99]
    assert spread_evenly([1, 2], 4) == [1, 2]


@settings(deadline=None, max_examples=100, derandomize=True)
@given(value=st.floats(-1e30, 1e30), ulps=st.lists(st.integers(0, 40), min_size=2, max_size=60))
@example(value=0.04222444372254895, ulps=[0, 1])
@example(value=0.0, ulps=[0, 1])
@example(value=5e-323, ulps=[0, 0])
def test_values_that_only_their_last_bits_tell_apart_are_drawn(value: float, ulps: list[int]) -> None:
    points = [(float(i), value + n * math.ulp(value)) for i, n in enumerate(ulps)]
    heights = [float(y) for line in LINES.findall(line_chart(points, "loss")) for y in re.findall(r",(\S+)", line)]
    assert heights and max(heights) - min(heights) < 0.2 and min(heights) > 0 and max(heights) < HEIGHT


@settings(deadline=None, max_examples=25, derandomize=True)
@given(values=st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=100))
def test_every_curve_stays_inside_its_chart(values: list[float]) -> None:
    svg = line_chart([(float(i), v) for i, v in enumerate(values)], "loss")
    assert bool(svg) == any(map(math.isfinite, values))
    for line in LINES.findall(svg):
        for place in line.split():
            x, y = map(float, place.split(","))
            assert 0 <= x <= WIDTH
            assert 0 <= y <= HEIGHT
    assert "nan" not in svg
    assert "inf" not in svg
