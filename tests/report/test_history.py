"""What is said of the last run, and of the one before it, on page and terminal."""

import json
from pathlib import Path

import pytest

from tasks.report.history import FILE, KEPT, Run, add_run, metrics_by_stage, params_changed, read_runs, run_before
from tasks.report.read import read_params, read_stages
from tasks.report.render import render
from tasks.report.scatter import ScatterPoint, scatter
from tasks.report.terminal import table
from tests.report.tree import build


def run_of(root: Path, name: str = "laptop", outcome: str = "finished", **changes: object) -> Run:
    """What a run that ended now would leave."""
    values = {"params": read_params(root), "figures": metrics_by_stage(read_stages(root)), **changes}
    return Run(name, "2026-01-02 03:04", "two cores", outcome, **values)  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return build(tmp_path)


def test_a_first_run_has_none_before_it(root: Path) -> None:
    add_run(root, run_of(root))
    assert "before" not in table(root) and "Against the run before" not in render(root).read_text()


def test_the_run_before_is_the_last_that_was_another(root: Path) -> None:
    figures = metrics_by_stage(read_stages(root))
    older = {
        **figures,
        "evaluate@rl": {**figures["evaluate@rl"], "accuracy": 0.5},
        "dedup": {"documents": 40, "kept": 29},
    }
    other = {**read_params(root), "seed": 6, "gone": {"a": 1}}
    add_run(root, run_of(root, "smoke", params=other, figures=older))
    add_run(
        root, run_of(root, "laptop", outcome="failed in rl")
    )  # of what did not finish nothing is said to have been before
    for _ in range(2):
        add_run(root, run_of(root, "laptop"))
    shown = table(root)
    rl = next(line for line in shown.splitlines() if line.startswith("rl "))
    assert "87.5%" in rl and "50.0%" in rl
    dedup = next(line for line in shown.splitlines() if line.startswith("dedup"))
    assert dedup.split()[4:6] == ["31", "29"]
    text = render(root).read_text()
    assert "Against the run before" in text and "smoke, 2026-01-02 03:04" in text
    assert params_changed(other, read_params(root)) == [("seed", "6", "7"), ("gone.a", "1", "-")]
    assert "<code>gone.a</code>" in text


def test_the_terminal_shows_what_was_asked_for(root: Path) -> None:
    shown = table(root, ["ingest", "dedup"])
    assert [line.split()[0] for line in shown.splitlines()] == ["stage", "ingest", "dedup"]


@pytest.mark.parametrize("outcome", ["failed in rl", "was stopped in rl"])
def test_a_page_of_a_run_that_did_not_finish_says_so(root: Path, outcome: str) -> None:
    add_run(root, run_of(root, outcome=outcome))
    (root / "data" / "metrics" / "evaluate@rl.json").unlink()
    text = render(root).read_text()
    assert f"The last run {outcome}." in text and "5 of 6 current" in text and "up to date" not in text


def test_the_headline_is_of_the_last_current_model(root: Path) -> None:
    assert "<h1>rl: 87.5% right, 1.999 bits per byte, in 4.32 MB</h1>" in render(root).read_text()
    (root / "data" / "metrics" / "evaluate@rl.json").unlink()
    assert "<h1>pretrain: 12.5% right" in render(root).read_text()


def test_a_line_cut_off_by_a_kill_is_passed_over_and_the_file_stays_short(root: Path) -> None:
    for number in range(KEPT + 3):
        add_run(root, run_of(root, f"run {number}", figures={}, params={}))
    with (root / FILE).open("a") as file:
        file.write('{"name": "torn')
    runs = read_runs(root)
    assert len(runs) == KEPT and runs[-1].name == f"run {KEPT + 2}"
    assert all(json.loads(line) for line in (root / FILE).read_text().splitlines()[:-1])
    assert run_before(runs, {}, {}) is None


def test_dots_stand_where_their_figures_are() -> None:
    dots = [ScatterPoint("big", 8e6, 0.8, 0.75, 0.85), ScatterPoint("small", 1e6, 0.4, 0.3, 0.5)]
    svg = scatter(dots)
    places = {
        name: [float(x) for x in svg.split(f"<title>{name}")[1].split('cx="')[1].split('"')[0:3:2]]
        for name in ("big", "small")
    }
    assert places["small"][0] < places["big"][0] and places["small"][1] > places["big"][1]  # down the page is less
    assert scatter(dots[:1]) == ""
    assert "&lt;b&gt;" in scatter([ScatterPoint("<b>", 1.0, 0, 0, 0), ScatterPoint("c", 1.0, 0, 0, 0)])
