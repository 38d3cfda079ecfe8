"""Figures read the same everywhere and mislead nowhere; axes hold what they are of."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.arena.pages import axis, forest
from flows.arena.pages.number_format import (
    format_compact,
    format_flop,
    format_interval,
    format_measured,
    format_power,
    format_ratio,
    format_with_interval,
)

RATIOS = st.floats(0.001, 1000)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.93, "0.930"), (1.0, "1.000"), (0.9305, "0.930"), (0.99982, "0.9998"), (1.00004, "1.00004"), (2.5, "2.500"), (12.5, "12.500"),
        (0.0123, "0.0123"), (0.00005, "5e-5"), (1234.4, "1,234"), (None, "-"),
    ],
)  # fmt: skip
def test_a_ratio(value: float | None, text: str) -> None:
    assert format_ratio(value) == text


@given(st.floats(0.1, 9.9))
def test_a_ratio_that_is_not_one_never_reads_one(value: float) -> None:
    if abs(value - 1) > 1e-6:
        assert (float(format_ratio(value)) > 1) == (value > 1) and float(format_ratio(value)) != 1
    assert float(format_ratio(value)) == pytest.approx(value, abs=5e-4)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.3, "2.3000"), (0.8125, "0.8125"), (81.1, "81.100"), (123.456, "123.46"), (744000, "744,000"), (3e-5, "3e-5"), (0.0, "0.0000"),
        (-1.5, "-1.5000"), (None, "-"),
    ],
)  # fmt: skip
def test_a_measured_value(value: float | None, text: str) -> None:
    assert format_measured(value) == text


def test_flop_and_ticks() -> None:
    assert [format_flop(x) for x in (2e13, 7.25e11, 0.0, None)] == ["2e13 FLOP", "7.25e11 FLOP", "0 FLOP", "-"]
    assert [format_power(x) for x in (1e-5, 0.001, 300.0, 1e9, 1e100)] == ["1e-5", "0.001", "300", "1e9", "1e100"]
    assert [format_compact(x) for x in (0, 900, 250_000, 999_999, 1.5e6, 1e12, 2e21)] == [
        "0",
        "900",
        "250k",
        "1M",
        "1.5M",
        "1T",
        "2e3E",
    ]


def test_an_interval_that_is_not_there_has_no_brackets() -> None:
    assert format_with_interval(0.93, (0.92, 0.94)) == "0.930 (0.920 to 0.940)"
    assert format_with_interval(0.93, None) == "0.930" and format_interval(None) == "-"


@given(st.lists(RATIOS, min_size=1, max_size=20))
def test_a_logarithmic_axis_holds_its_values_in_order(values: list[float]) -> None:
    on = axis.logarithmic(values)
    shares = [on.share(value) for value in sorted(values)]
    assert shares == sorted(shares) and all(0 < share < 1 for share in shares)
    assert all(on.low <= value <= on.high for value, _ in on.ticks)
    assert len({text for _, text in on.ticks}) == len(on.ticks) >= 1


def test_equal_ratios_are_equal_lengths() -> None:
    on = axis.logarithmic([0.5, 2.0])
    assert on.share(1.0) == pytest.approx(0.5)
    assert on.share(2.0) - on.share(1.0) == pytest.approx(on.share(1.0) - on.share(0.5))
    assert on.share(-3.0) == 0.0 and on.share(1e9) == 1.0


@pytest.mark.parametrize(
    ("ends", "labels"),
    [
        ((0.0003, 0.03), ["0.0003", "0.001", "0.003", "0.01", "0.03"]),
        ((0.9, 1.1), ["0.90", "0.95", "1.00", "1.05", "1.10"]),
        ((1e-6, 1.0), ["1e-6", "1e-5", "0.0001", "0.001", "0.01", "0.1", "1"]),
    ],
)
def test_ticks_of_a_logarithmic_axis(ends: tuple[float, float], labels: list[str]) -> None:
    assert [text for _, text in axis.logarithmic(ends).ticks] == labels


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_a_linear_axis_holds_its_values(values: list[float]) -> None:
    on = axis.linear(values)
    reach = on.high - on.low
    assert on.low <= min(values) + 1e-6 * reach and on.high >= max(values) - 1e-6 * reach


@given(st.lists(RATIOS, max_size=20), st.floats(0.001, 0.9))
def test_the_axis_of_a_forest_plot_holds_one_and_ends_where_arrows_begin(ratios: list[float], width: float) -> None:
    marks = [forest.Mark("m", r, (r * (1 - width), r * (1 + width)), None, "better") for r in ratios]
    on = forest.axis(marks)
    assert on.low < 1 < on.high and any(math.isclose(value, 1) for value, _ in on.ticks)
    assert on.low >= 1 / 5 and on.high <= 5
    assert forest.left_out(marks, on) == any(not on.low <= v <= on.high for m in marks for v in (m.ratio, *(m.t or ())))


def test_an_arrow_is_spoken_of_where_an_end_or_a_ratio_lies_beyond() -> None:
    inside, end, whole = ((1.0, (0.9, 1.1)), (1.0, (0.9, 9.0)), (9.0, None))
    for (ratio_of, ends), beyond in ((inside, False), (end, True), (whole, True)):
        marks = [forest.Mark("m", ratio_of, ends, None, "better")]
        assert forest.left_out(marks, forest.axis(marks)) == beyond


def test_a_lane_shows_ratio_intervals_noise_and_arrows() -> None:
    mark = forest.Mark("<b>", 0.93, (0.9, 9.0), (0.92, 0.95), "better")
    on = forest.axis([mark])
    lane = forest.lane(mark, on, (0.99, 1.01))
    assert "<b>" not in lane and "&lt;b&gt;: 0.930 (0.900 to 9.000), better" in lane
    assert lane.count('class="noise"') == lane.count('class="bootstrap"') == lane.count("<circle") == 1
    assert lane.count("<path") == 1 and 'class="lane good"' in lane  # the arrow of 9
    assert "<circle" not in forest.lane(forest.Mark("m", 9.0, None, None, "worse"), on)
    assert 'class="noise"' not in forest.lane(mark, on)
