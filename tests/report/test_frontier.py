"""Which models are worth their bytes, what each costs, and the drawing of it."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.report.frontier import bits_of, frontier, is_dominated
from tasks.report.read import Stage
from tasks.report.render import page
from tasks.report.scatter import ScatterPoint, scatter
from tasks.report.terminal import stage_results, table
from tests.report.tree import build

Points = st.lists(st.tuples(st.integers(1, 20).map(float), st.integers(0, 10).map(lambda n: n / 10)), max_size=12)


def stage(model: str, size: float, accuracy: float) -> Stage:
    metrics = {"size_bytes": size, "accuracy": accuracy, "parameters": size / 4}
    timings = {"tokens_per_second": 100.0, "peak_memory_bytes": 5e8}
    return Stage(f"evaluate@{model}", [], Path("nowhere") / model, current=True, metrics=metrics, timings=timings)


def test_the_frontier_by_hand() -> None:
    stages = [
        stage("a", 8e6, 0.8),
        stage("b", 8e6, 0.5),
        stage("c", 2e6, 0.8),
        stage("d", 1e6, 0.7),
        stage("e", 1e6, 0.7),
    ]
    found = {place.model: place.dominated for place in frontier(stages, {})}
    assert found == {"a": True, "b": True, "c": False, "d": False, "e": False}, "equals do not hide each other"
    assert [place.bits for place in frontier(stages, {})] == [32.0] * 5
    assert frontier([Stage("evaluate@x", [], Path("nowhere"))], {}) == [] == frontier([], {})


def test_bits_are_those_that_the_stage_counts() -> None:
    assert bits_of({"bits_per_weight": 4.5}, {"size_bytes": 100.0, "parameters": 10.0}) == 4.5
    assert bits_of({}, {"size_bytes": 100.0, "parameters": 10.0}) == 80 and bits_of({}, {"size_bytes": 1.0}) is None


@given(Points)
def test_something_is_always_on_the_frontier_and_nothing_there_is_beaten(places: list[tuple[float, float]]) -> None:
    kept = [own for own in places if not is_dominated(own, places)]
    assert bool(kept) == bool(places)
    for size, accuracy in places:
        assert any(other[0] <= size and other[1] >= accuracy for other in kept)
    assert not any(is_dominated(own, kept) for own in kept)
    ordered = sorted(set(kept))
    assert [accuracy for _, accuracy in ordered] == sorted({accuracy for _, accuracy in ordered})


@given(Points.filter(lambda places: len(places) > 1))
def test_the_line_steps_up_to_the_right_through_what_is_not_pale(places: list[tuple[float, float]]) -> None:
    dots = [
        ScatterPoint(str(n), size, accuracy, accuracy, accuracy, is_dominated((size, accuracy), places))
        for n, (size, accuracy) in enumerate(places)
    ]
    svg = scatter(dots)
    line = re.findall(r'class="frontier" points="([^"]*)"', svg)[0]
    steps = [tuple(map(float, each.split(","))) for each in line.split()]
    assert all(left[0] <= right[0] and left[1] >= right[1] for left, right in zip(steps, steps[1:], strict=False))
    assert svg.count('<g class="model pale">') == sum(dot.dominated for dot in dots) == svg.count('class="name pale"')
    circles = re.findall(r'<g class="model">.*?cx="([^"]*)" cy="([^"]*)"', svg)
    assert {(float(x), float(y)) for x, y in circles} <= set(steps)


def test_it_is_in_the_table_on_the_page_and_in_json(tmp_path: Path) -> None:
    root = build(tmp_path)
    head, first, second = next(
        lines[:3] for block in table(root).split("\n\n") if (lines := block.splitlines())[0].endswith("frontier")
    )
    # rl is 500 bytes larger and answers more, so neither hides the other
    assert first.split()[0] == "pretrain" and first.endswith("yes") and second.endswith("yes") and "32.00" in first
    assert " ".join(head.split()) == (
        "model beside accuracy, in points bits/byte KL, nats/token bits/weight size tokens/s memory frontier"
    )
    told = stage_results(root)["stages"]["evaluate@rl"]["frontier"]
    assert told == {"bits_per_weight": pytest.approx(32, abs=0.01), "dominated": False}
    stages = [stage("a", 8e6, 0.8), stage("b", 8e6, 0.5)]
    text = page(root, stages)
    assert text.count('<tr class="absent"><th scope="row">b</th>') == 1 and "joins the others" in text
