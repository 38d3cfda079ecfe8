"""Curves as CSV, and what `dvc plots` makes of them by the dvc.yaml that there is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.environment import environment
from tasks.report.curves import FOLDER, as_csv, write_curves
from tasks.report.read import Stage
from tests.ports import dead_port
from tests.project import ROOT


def stage(name: str, **curves: list[tuple[int, float]]) -> Stage:
    return Stage(name, [], Path(name), True, curves=curves)


def test_a_row_a_step_and_nothing_where_there_is_no_point(tmp_path: Path) -> None:
    found = stage("rl", loss=[(0, 0.5), (2, 0.25)], reward=[(2, 1.0), (1, 0.0)])
    assert as_csv(found) == "step,loss,reward\n0,0.5,\n1,,0.0\n2,0.25,1.0\n"
    write_curves(tmp_path, [found])
    assert (tmp_path / FOLDER / "rl.csv").read_text() == as_csv(found)
    write_curves(tmp_path, [stage("rl")])
    assert not (tmp_path / FOLDER / "rl.csv").exists()


PLOTS = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]


def test_dvc_draws_them_with_no_network(tmp_path: Path) -> None:
    wanted: dict[str, set[str]] = {}
    for body in (body for plot in PLOTS for body in plot.values()):
        for path, column in body["y"].items():
            wanted.setdefault(path, set()).add(column)
    write_curves(tmp_path, [stage(Path(p).stem, **{c: [(0, 2.0), (1, 1.0)] for c in cs}) for p, cs in wanted.items()])
    assert all((tmp_path / path).exists() for path in wanted)
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"plots": PLOTS}))

    dead = f"http://127.0.0.1:{dead_port()}"

    def dvc(*words: str) -> str:
        command = [sys.executable, "-P", "-m", "dvc", *words]
        nowhere = {"https_proxy": dead, "http_proxy": dead}
        surroundings = environment(tmp_path) | nowhere
        done = subprocess.run(command, cwd=tmp_path, env=surroundings, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    dvc("init", "--quiet", "--no-scm")
    drawn = json.loads(dvc("plots", "show", "--json"))
    assert not drawn.get("errors")
    assert set(drawn["data"]) == {name for plot in PLOTS for name in plot}
    for [plot] in drawn["data"].values():
        points = (
            plot["content"]["data"]["values"]
            if isinstance(plot["content"], dict)
            else json.loads(plot["content"])["data"]["values"]
        )
        assert len(points) >= 2
    dvc("plots", "show", "--out", "plots")
    assert "<html>" in (tmp_path / "plots" / "index.html").read_text().lower()


@pytest.mark.parametrize("name", ["pretrain", "sft", "rl", "distill"])
def test_every_stage_with_a_curve_of_loss_is_drawn(name: str) -> None:
    assert any(f"{name}.csv" in path for plot in PLOTS for body in plot.values() for path in body["y"])
