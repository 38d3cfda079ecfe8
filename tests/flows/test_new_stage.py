"""A stage more that trains: which files it takes, and what is said of it where its room says nothing."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tasks
from flows.forecast.forecasts import works_of
from flows.params.compose import compose
from flows.preflight.contracts import check_edges
from flows.preflight.shrink import toy_params
from lm.config import ConfigError
from tasks.core.yaml import dump_yaml, read_yaml
from tasks.runner.git import git
from tasks.runner.graph import read_graph
from tests.flows.new_stage import NEEDS, ROOM, SECTION, STAGE, STEP, copy_with_the_stage, write_room
from tests.project import TINY


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """tasks.contrast can be imported, for as long as the test lasts."""
    write_room(tmp_path / "tasks/contrast")
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path / "tasks")])
    yield
    for name in [name for name in sys.modules if name.startswith("tasks.contrast")]:
        del sys.modules[name]
    vars(tasks).pop("contrast", None)


def params_of(**changes: Any) -> dict[str, Any]:
    return {**TINY, "contrast": {**SECTION, **changes}}


def test_the_toy_run_of_a_room_that_says_nothing_has_two_steps(room: None, tmp_path: Path) -> None:
    params = params_of()
    toy = toy_params(params, ["dedup", "sft", "contrast"], tmp_path)
    assert toy["contrast"] == {**params["contrast"], "steps": 2, "compile": "off"}
    assert toy["sft"] == {**params["sft"], "steps": 2, "batch": 4, "compile": "off"}  # as its room says
    assert toy["dedup"] == params["dedup"] and toy["rl"] == params["rl"]


def test_the_rows_of_its_step_must_divide(room: None) -> None:
    assert check_edges(params_of(contrast=8, shards=8), ["contrast"]) == []
    [found] = check_edges(params_of(contrast=6, shards=4), ["contrast"])  # 12 rows divide by 4, and 6 pairs do not
    assert str(found) == (
        "params.yaml: contrast: 12 rows a step, 2 of which stay together, cannot be divided into 4 shards; change either"
    )
    narrow = params_of()
    narrow["pretrain"] = {**narrow["pretrain"], "model": {**narrow["pretrain"]["model"], "context": 2}}
    assert "nothing fits the context" in str(check_edges(narrow, ["contrast"]))


def test_it_is_forecast_by_its_config_whether_or_not_it_has_a_step_of_its_own(room: None, tmp_path: Path) -> None:
    assert works_of(params_of(), ["ingest", "contrast"]).keys() == {"contrast"}
    (tmp_path / "tasks/contrast/needs.py").write_text(NEEDS.replace("tasks.contrast.step", "tasks.contrast.stage"))
    (tmp_path / "tasks/contrast/stage.py").write_text(STAGE + STEP.partition("\n\n")[2])
    (tmp_path / "tasks/contrast/step.py").unlink()
    for name in [name for name in sys.modules if name.startswith("tasks.contrast.")]:
        del sys.modules[name]
    assert works_of(params_of(), ["contrast"])["contrast"].step().batch.rows == 64


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project with the room, its block and its section, as a newcomer makes them."""
    return copy_with_the_stage(tmp_path / "project")


def test_a_stage_that_trains_is_six_files_and_params_is_written_for_it(project: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^params.yaml: contrast.model: [^\n]*`make pipeline`[^\n]*presets/laptop.yaml$"
    ):
        read_graph(project)
    before = (project / "params.yaml").read_text()
    command = [
        sys.executable,
        "-m",
        "flows.params.compose",
    ]  # the first that `make repro` does; `make pipeline` does it, too
    done = subprocess.run(command, cwd=project, env={"PYTHONPATH": str(project)}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "params.yaml: contrast.steps - -> 60" in done.stdout
    text = f"\n{dump_yaml({'contrast': SECTION})}rl:\n"
    assert (project / "params.yaml").read_text() == before.replace("\nrl:\n", text, 1)
    read_graph(project)
    for name in ("data/contrast/model.safetensors", "data/keys/contrast.json", "data/timings/contrast.json"):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text("what a run leaves")
    git(project, "add", "-A")
    assert git(project, "diff", "--cached", "--name-only").split() == [
        "dvc.yaml",
        "params.yaml",
        "presets/laptop.yaml",
        *sorted(f"tasks/contrast/{name}" for name in ROOM),
    ]


def test_sections_that_are_there_stay_and_the_base_gives_no_more_than_lacks(project: Path) -> None:
    path = project / "params.yaml"
    params = read_yaml(path)
    params["seed"], params["rl"] = 7, {**params["rl"], "steps": 5}
    del params["quantize"]
    path.write_text(dump_yaml(params))
    found = compose(project, "current", ["contrast.steps=9"])
    assert (
        found["contrast"] == {**SECTION, "steps": 9}
        and found["quantize"] == read_yaml(project / "presets/laptop.yaml")["quantize"]
    )
    assert {name: found[name] for name in params if name != "libraries"} == {
        n: v for n, v in params.items() if n != "libraries"
    }
    (project / "presets/laptop.yaml").unlink()
    assert "contrast" not in compose(project, "current", [])
